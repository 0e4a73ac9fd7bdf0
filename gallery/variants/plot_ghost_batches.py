"""
Do ghost batches help a large batch?
====================================

Hardly: **within two points** either way. A network that learns 3,000 digits in batches of 512 or
256 classifies about as well where each batch is cut into ghost batches of 16
(:class:`bnref.layers.GhostBatchNorm`) as it does with the statistics of the whole batch; what each
seed won stands at the end. What ghost batches are good for is to make one device behave **exactly**
as N/16 unsynchronized replicas do.

Question 1, *whose statistics*: those of each part of the batch. Hoffer, Hubara & Soudry 2017,
arXiv 1705.08741, Algorithm 1, use them, with other measures, against the accuracy that large
batches lose.
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import training
from bnref_gallery import datasets, models, scale

data = datasets.load("mnist").take(train=3000, test=1000)
SEEDS, STEPS = range(scale.at_scale(quick=3, full=10)), 120
GHOST = 16

# %%
# The same steps, by the whole batch and in ghosts
# ------------------------------------------------


def learn(batch, ghost):
    """Test accuracy every 20 steps, a row a seed."""
    norm = partial(bnref.GhostBatchNorm, groups=batch // ghost, momentum=0.9)
    options = {"inputs": (28, 28, 1), "units": (128, 128)}
    model, rows = models.perceptron(norm, **options), []
    rate = keras.optimizers.schedules.CosineDecay(0.01, STEPS)
    run = training.Run(model, keras.optimizers.Adam(rate))  # traced once for all seeds
    start = [each.numpy() for each in run.optimizer.variables]
    for seed in SEEDS:
        keras.utils.set_random_seed(seed)
        model.set_weights(models.perceptron(norm, **options).get_weights())
        for variable, value in zip(run.optimizer.variables, start, strict=True):
            variable.assign(value)
        history = run.train(
            data.x_train, data.y_train, steps=STEPS, batch_size=batch, seed=seed, every=20,
            measure=lambda run: {"accuracy": run.evaluate(data.x_test, data.y_test)[1]},
        )  # fmt: skip
        rows.append(history["accuracy"])
    return np.array(rows)


curves = {(batch, ghost): learn(batch, ghost) for batch in (512, 256) for ghost in (batch, GHOST)}
fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained", sharey=True)
for ax, batch in zip(axes, (512, 256), strict=True):
    for colour, ghost in (("C0", batch), ("C1", GHOST)):
        label = "the whole batch" if ghost == batch else f"ghosts of {ghost}"
        ax.plot(range(0, STEPS + 1, 20), curves[batch, ghost].T, colour, lw=0.8, alpha=0.6)
        ax.plot(range(0, STEPS + 1, 20), curves[batch, ghost].mean(0), colour, lw=2.2, label=label)
    ax.set(title=f"Test accuracy, batches of {batch}", xlabel="training step", ylim=(0.87, 0.96))
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# A ghost is a replica
# --------------------
# Each part comes out as from a batch-norm layer that is given the part alone, and what is
# remembered is the mean over the parts; so ``groups=8`` on one device rehearses eight replicas.

x = np.random.default_rng(0).normal(size=(64, 5, 3)).astype("float32") * [1, 2, 4] + [0, 3, -9]
ghosts, alone = bnref.GhostBatchNorm(groups=8, momentum=0.9), bnref.BatchNorm(momentum=0)
whole, means, variances = ghosts(x, training=True), [], []
for part, expected in zip(np.split(x, 8), np.split(whole, 8), strict=True):
    assert np.array_equal(alone(part, training=True), expected)
    means.append(alone.moving_mean.numpy())
    variances.append(alone.moving_variance.numpy())
assert np.allclose(ghosts.moving_mean, 0.1 * np.mean(means, 0), atol=1e-6)
assert np.allclose(ghosts.moving_variance, 0.9 + 0.1 * np.mean(variances, 0), rtol=1e-5)

# %%
# Verdict
# -------
# A regularizer of the size of a seed's chance: try it where batches are much larger than 256 and
# the training loss is near 0, and compare several seeds. The smaller the ghosts, the larger the gap
# between training and inference
# (:doc:`/gallery/pitfalls/plot_the_gap_falls_as_the_root_of_the_batch`): very small ones lose, as
# small batches on replicas do (:doc:`plot_batch_size_per_replica`). TensorFlow 1's
# ``virtual_batch_size`` is ``N // groups``.
#
# Conclusion
# ----------

won = {}
for batch in (512, 256):
    won[batch] = 100 * (curves[batch, GHOST][:, -1] - curves[batch, batch][:, -1])
    print(f"batches of {batch}, ghosts of {GHOST}: points won, by seed:", won[batch].round(1))
    assert abs(won[batch].mean()) < 2, "hardly, either way"
assert min(rows[:, -1].min() for rows in curves.values()) > 0.88
