"""
Does batch norm make this MNIST network learn faster?
=====================================================

A little, and only at first: over five random starts it recognizes 95 % of the test digits after
about **40 batches instead of 60**, and both networks end near 98.6 %. At inference it looks slower,
not faster: normalized by the moving average, the very same weights need some **350 batches** to get
to 95 %. What is slow is not the network but the average, which starts at variance 1; a debiased
average, or batch statistics, show what has been learned.

The post "with and without" (in Chinese) trains two 5×5 convolutions of 32 and 64 filters and 1024
units on MNIST, with and without batch norm, and shows the accuracy of 80 tests. This page repeats
it twice: at its full size from a recording, and smaller while the page is built. What the code of
the post does wrong has two pages of its own:
:doc:`plot_with_and_without_fails_one_image_at_a_time` and
:doc:`plot_with_and_without_normalizes_its_logits`.
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import datasets, models, records, training

# %%
# The post's setting, recorded
# ----------------------------
# Batches of 64, Adam with 0.002, dropout 0.5, 800 batches, tested every 10 batches; lines are means
# over five starts, bands go from the worst to the best.

provenance, recorded = records.read(records.recorded("with_and_without.csv"))
print(records.provenance_line(provenance))
STEPS = np.unique(recorded["step"])


def curves(arm, column="accuracy"):
    """One row a start."""
    chosen = recorded["arm"] == arm
    return recorded[column][chosen].reshape(-1, len(STEPS))


lines = {
    "without": curves("without"),
    "with, normalized by the batch of all test images": curves("with", "batch_accuracy"),
    "with, moving average (ρ = 0.99)": curves("with"),
    "as posted, with": curves("posted with"),
}


def draw(ax, steps, lines):
    for (name, values), colour in zip(lines.items(), ["C4", "C0", "C2", "C1", "C3"], strict=False):
        ax.plot(steps, values.mean(0), color=colour, label=name)
        ax.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
    ax.set(xlabel="training step")


fig, axes = plt.subplots(1, 2, figsize=(7, 4.2), layout="constrained", sharey=True)
for ax, last in zip(axes, (120, 800), strict=True):
    draw(ax, STEPS, lines)
    ax.set(xlim=(0, last), ylim=(0.5, 1), title=f"The first {last} of 800 batches")
axes[0].set(ylabel="test accuracy")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
plt.show()

# %%
# Why the moving average is slow
# ------------------------------
# It answers question 2, *remembered how*, by P ← 0.99 P + 0.01 B, from variance 1. After t batches
# the start still weighs 0.99ᵗ, and here the variances are far below 1: until 0.99ᵗ is far below
# them too, the layer divides by a number that is mostly the start. The debiased average is the same
# without the start.
#
# The same, while this page was built
# -----------------------------------
# A narrower network (8 and 16 filters, 64 units), 4,000 images, three starts.

data = datasets.load("mnist").take(train=4000, test=500)
norms = {"without": None, "debiased": bnref.DebiasedBatchNorm, "moving": bnref.BatchNorm}


def live(norm, seed):
    """Test accuracy every 20 steps."""
    keras.utils.set_random_seed(seed)
    model = models.two_convolutions(norm, filters=(8, 16), units=64)

    def measure(model):
        return {"accuracy": training.evaluate(model, data.x_test, data.y_test)[1]}

    options = {"optimizer": keras.optimizers.Adam(0.002), "measure": measure, "every": 20}
    x, y = data.x_train, data.y_train
    history = training.train(model, x, y, steps=160, batch_size=64, seed=seed, **options)
    return history["accuracy"], model


runs = {name: [live(norm, seed) for seed in range(3)] for name, norm in norms.items()}
small = {name: np.array([accuracy for accuracy, _ in run]) for name, run in runs.items()}
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
draw(ax, np.arange(0, 161, 20), {"without": small["without"], "": np.full((1, 9), np.nan),
     "with, debiased average": small["debiased"], "with, moving average": small["moving"]})  # fmt: skip
ax.set(ylabel="test accuracy", title="Three small networks, 160 batches")
ax.legend()
plt.show()

# %%
# Conclusion
# ----------


def reaches(curves, accuracy=0.95):
    """The first tested step at which each start has the accuracy."""
    return STEPS[np.argmax(curves >= accuracy, axis=1)]


for name, values in lines.items():
    print(f"{name:50} 95 % at {reaches(values)}, at the end {values[:, -5:].mean():.4f}")
