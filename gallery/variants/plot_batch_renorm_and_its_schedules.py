"""
Batch renorm helps small and sorted batches, and not large ones
===============================================================

In batches of 16 images of two classes a network with batch renorm gets to about **84 %** of the
test digits where batch norm gets to 77 %; in batches of 4 it is ahead as well. In batches of 64
mixed images the difference is within two points. The limits of its correction may be wide open
from the first step, if the average is fast; with a slow one that costs more than **three points**.

The symptom: training in small batches, or sorted ones (by class, by patient, by camera), predicts
far worse than it trained. Question 3, *used when*: batch norm trains on the batch's statistics and
predicts by the population's. :class:`bnref.layers.BatchRenorm` corrects the former towards the
latter (Ioffe 2017, arXiv 1702.03275, Algorithm 1), with r = σ_B/σ_P and d = (μ_B − μ_P)/σ_P:

.. math:: y = \\gamma\\left(\\frac{x - \\mu_B}{\\sigma_B} r + d\\right) + \\beta

.. symptom:: test accuracy near chance
   :cause: each batch holds few classes, and its statistics tell them
   :check: how many classes has a batch? shuffle and train again
   :likelihood: sometimes
   :question: 1
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import training
from bnref_gallery import datasets, scale

# %%
# Unclipped, y is normalized by the population; yet r and d count as constants, and the gradient
# passes through the batch's statistics. They are clipped to [1/r_max, r_max] and ±d_max; at limits
# of 1 and 0 the layer is batch norm. The paper opens them after 5,000 steps (section 4), this page
# from step 40 on. A fast average has a momentum of 0.95, a slow one of 0.99.

schedule = {"r_max": ((40, 1), (160, 3)), "d_max": ((40, 0), (120, 5))}
arms = {
    "batch norm": lambda: bnref.BatchNorm(momentum=0.95),
    "schedule, fast": lambda: bnref.BatchRenorm(momentum=0.95, **schedule),
    "open, fast": lambda: bnref.BatchRenorm(momentum=0.95, r_max=1e3, d_max=1e3),
    "schedule, slow": lambda: bnref.BatchRenorm(momentum=0.99, **schedule),
    "open, slow": lambda: bnref.BatchRenorm(momentum=0.99, r_max=1e3, d_max=1e3),
    "closed": lambda: bnref.BatchRenorm(momentum=0.95, r_max=1, d_max=0),
}
data = datasets.load("mnist").take(train=4000, test=512)


def divided(size, classes, seed):  # into batches
    random = np.random.default_rng(seed)
    order = random.permutation(4000 // size * size)
    if classes == 2:
        order = order[np.argsort(data.y_train[order])]
        order = random.permutation(order.reshape(-1, size // 2))
    order = order.reshape(-1, size)
    return data.x_train[order], data.y_train[order]


def trained(arm, size, classes, seed):  # accuracies, and shares of r and d that are clipped
    x, y = divided(size, classes, seed)
    test = data.x_test.reshape(-1, size, 28, 28, 1), data.y_test.reshape(-1, size)
    keras.utils.set_random_seed(seed)
    dense, norm, relu = keras.layers.Dense, arms[arm], keras.layers.ReLU
    parts = [dense(64), norm(), relu(), dense(64), norm(), relu(), dense(10)]
    flat = keras.layers.Reshape((size, 784))  # a batch is one example to the training loop
    model = keras.Sequential([keras.Input(x.shape[1:]), flat, *parts])

    def measure(run):
        results = {"accuracy": run.evaluate(*test)[1]}
        if arm == "schedule, fast":
            layer, h = parts[1], np.asarray(parts[0](flat(x[:50])))
            variance = layer.moving_variance + layer.epsilon
            r = np.log((h.var(1) + layer.epsilon) / variance) / 2
            d = (h.mean(1) - layer.moving_mean) / np.sqrt(variance)
            results["r"] = np.mean(np.abs(r) > np.log(layer.r_max(layer.steps)))
            results["d"] = np.mean(np.abs(d) > layer.d_max(layer.steps))
        return results

    options = {"optimizer": keras.optimizers.SGD(0.1), "steps": 220, "every": 20, "seed": seed}
    return training.train(model, x, y, batch_size=1, measure=measure, **options)


seeds, runs = range(scale.at_scale(quick=3, full=10)), {}
kinds = {"4 mixed": (4, 10, 2), "16, two classes": (16, 2, 5), "64 mixed": (64, 10, 2)}
for kind, (size, classes, count) in kinds.items():
    names = list(arms)[:count]
    runs[kind] = {arm: [trained(arm, size, classes, seed) for seed in seeds] for arm in names}

fig, axes = plt.subplots(2, 2, figsize=(6.2, 5.4), layout="constrained")
steps = np.arange(0, 221, 20)
for ax, (kind, of_kind) in zip(axes.flat, runs.items(), strict=False):
    for arm, colour in zip(of_kind, ("C4", "C0", "C2", "C3", "C1"), strict=False):
        values = np.array([history["accuracy"] for history in of_kind[arm]])
        ax.plot(steps, values.mean(0), colour, label=arm)
        ax.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
    ax.set(title=f"Test accuracy, {kind}", ylim=(0.4, 1), xlabel="step")
fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
for name in ("r", "d"):
    shares = [each[name] for each in runs["4 mixed"]["schedule, fast"]]
    axes[1, 1].plot(steps, np.mean(shares, 0), {"r": "C0", "d": "C0--"}[name], label=name)
axes[1, 1].set(title="Share clipped, 4 mixed", xlabel="step")
axes[1, 1].legend()
plt.show()

# %%
# With batches of 64 or more, well mixed: nothing. With sorted batches: mix them, if you can. Else
# copy ``schedule``, scaled to your number of steps, with a memory 1/(1 − ρ) of far fewer steps. To
# check your own model: give it a batch as in training, and the same images in mixed batches, with
# ``training=True``. Where the outputs differ, the company in the batch decides.
#
# Conclusion
# ----------

last = {}
for name, of_kind in runs.items():
    ends = {arm: [h["accuracy"][-3:].mean() for h in of_kind[arm]] for arm in of_kind}
    print(name, *(f"{arm} {np.round(ends[arm], 3)}" for arm in ends), sep="; ")
    last[name] = {arm: np.mean(ends[arm]) for arm in ends}
small, two, large = last.values()
assert small["schedule, fast"] - small["batch norm"] > 0.01
assert two["schedule, fast"] - two["batch norm"] > 0.03 and two["schedule, fast"] > 0.8
assert abs(large["schedule, fast"] - large["batch norm"]) < 0.02
assert abs(two["open, fast"] - two["schedule, fast"]) < 0.03 < two["open, fast"] - two["open, slow"]
assert two["schedule, slow"] - two["open, slow"] > 0.03
closed, plain = trained("closed", 4, 10, 0)["loss"], runs["4 mixed"]["batch norm"][0]["loss"]
assert np.allclose(closed, plain, rtol=1e-2, equal_nan=True), "batch norm"
