"""
Do ghost batches help a large batch? And where is ``virtual_batch_size``?
=========================================================================

Ghost batches are parts of a batch that are normalized separately, and Keras 3 has no argument for
them. They help little: in a network that learns 3,000 digits in batches of 512, each arm at its own
best rate, ghosts of 32 change the test accuracy by :claim:`0.2 points <won_512>`, and in batches of
1,024 by :claim:`0.5 points <won_1024>`, means over five seeds. What they are good for is to make
one device normalize exactly as N/32 unsynchronized replicas do.

.. symptom:: an error message
   :cause: ``virtual_batch_size`` is no argument of Keras 3's ``BatchNormalization``
   :check: ``Unrecognized keyword arguments passed to BatchNormalization``
   :likelihood: often
   :question: 1

.. symptom:: validation far worse than training
   :cause: batches are so large that the noise of their statistics no longer regularizes
   :check: compare ghosts of 32 with the whole batch, over several seeds
   :likelihood: seldom
   :question: 1
"""

# %%
# Check
# -----
# Are the parts of a batch normalized separately? ``largest`` is the largest difference from what
# the layer puts out when it is given each part alone.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def away_from_parts(layer, x, size):
    """How far the outputs of a batch are from those of its parts of this size."""
    alone = keras.layers.BatchNormalization(epsilon=layer.epsilon)
    whole, largest = np.asarray(layer(x, training=True)), 0.0
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        away = np.abs(whole[part] - np.asarray(alone(x[part], training=True)))
        largest = max(largest, away.max())
    return largest


# %%
# Fix
# ---
# :class:`bnref.layers.GhostBatchNorm` takes the number of parts. tf_keras 2 and TensorFlow 1 have
# ``virtual_batch_size``, the number of examples in one. It has nothing to do with the reference
# batch of *virtual batch normalization* (Salimans et al. 2016, `arXiv 1606.03498
# <https://arxiv.org/abs/1606.03498>`_, section 3.4).
#
# Wrong
# ^^^^^


def ghost_norm_wrong(batch, size, **options):
    return keras.layers.BatchNormalization(virtual_batch_size=size, **options)


# %%
# Right
# ^^^^^


def ghost_norm(batch, size, **options):
    return bnref.GhostBatchNorm(groups=batch // size, **options)


# %%
# Why
# ---
# Question 1 (whose statistics): those of each part of the batch. Hoffer, Hubara & Soudry 2017,
# `arXiv 1705.08741 <https://arxiv.org/abs/1705.08741>`_, Algorithm 1, use them, with other
# measures, against the accuracy that large batches lose. Summers & Dinneen 2020, `arXiv 1906.03548
# <https://arxiv.org/abs/1906.03548>`_, find on six data sets that they regularize batches of small
# and medium size too, with larger networks than here. What is remembered is the mean of the parts.
#
# The smaller the ghosts, the larger is the gap between training and inference
# (:doc:`/gallery/pitfalls/plot_the_gap_falls_as_the_root_of_the_batch`): very small ones lose, as
# small batches on replicas do (:doc:`plot_batch_size_per_replica`). Try them where batches are
# large and the training loss is near 0, and compare several seeds.
#
# Met in `tensorflow/tensorflow#46572 <https://github.com/tensorflow/tensorflow/issues/46572>`_,
# where somebody who asks for virtual batch normalization is sent to ``virtual_batch_size``.
#
# Experiment
# ----------
# Digits of 14 × 14 pixels, 60 steps of Adam with a falling rate.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
SEEDS, STEPS, GHOST = range(scale.at_scale(quick=5, full=10)), 60, 32
BATCHES, RATES = (512, 1024), (0.01, 0.03)


def network(batch, ghost):
    if ghost == batch:
        norm = partial(bnref.BatchNorm, momentum=0.9)
    else:
        norm = partial(ghost_norm, batch, ghost, momentum=0.9)
    return models.perceptron(norm, inputs=(14, 14, 1), units=(64, 64))


def learn(batch, ghost):
    """Test accuracy every 20 steps at the best rate for the last of them, a row a seed."""
    make, curves = partial(network, batch, ghost), []
    for rate in RATES:
        model, rows = make(), []
        schedule = keras.optimizers.schedules.CosineDecay(rate, STEPS)
        run = training.Run(model, keras.optimizers.Adam(schedule))  # traced once for all seeds
        for seed in SEEDS:
            restart(model, run.optimizer, make, seed=seed)
            history = run.train(
                x_train, data.y_train, steps=STEPS, batch_size=batch, seed=seed, every=20,
                measure=lambda run: {"accuracy": run.evaluate(x_test, data.y_test)[1]},
            )  # fmt: skip
            rows.append(history["accuracy"])
        curves.append(rows)
    curves = np.array(curves)
    return curves[curves[..., -1].mean(1).argmax()]


curves = {(batch, ghost): learn(batch, ghost) for batch in BATCHES for ghost in (batch, GHOST)}

# %%
# A ghost is a replica: each part comes out as from a norm that is given the part alone, and what is
# remembered is the mean over the parts.

x = np.random.default_rng(0).normal(size=(64, 5, 3)).astype("float32") * [1, 2, 4] + [0, 3, -9]
ghosts, whole = bnref.GhostBatchNorm(groups=8, momentum=0.9), bnref.BatchNorm(momentum=0.9)
away = away_from_parts(ghosts, x, 8), away_from_parts(whole, x, 8)
means = [part.mean((0, 1)) for part in np.split(x, 8)]
variances = [part.var((0, 1)) for part in np.split(x, 8)]

# %%

fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained", sharey=True)
for ax, batch in zip(axes, BATCHES, strict=True):
    for colour, ghost in (("C0", batch), ("C1", GHOST)):
        label = "the whole batch" if ghost == batch else f"ghosts of {ghost}"
        ax.plot(range(0, STEPS + 1, 20), curves[batch, ghost].T, colour, lw=0.8, alpha=0.6)
        ax.plot(range(0, STEPS + 1, 20), curves[batch, ghost].mean(0), colour, lw=2.2, label=label)
    ax.set(title=f"Batches of {batch}", xlabel="training step", ylim=(0.8, 0.97))
axes[0].set(ylabel="test accuracy")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# What each seed won, the error of Keras 3, and that a ghost is a replica.

for batch in BATCHES:
    won = curves[batch, GHOST][:, -1] - curves[batch, batch][:, -1]
    print(f"batches of {batch}, ghosts of {GHOST}: points won, by seed:", (100 * won).round(1))
    claim(f"won_{batch}", won, "accuracy won by ghosts", above=-0.02, below=0.02, of="mean")
assert min(rows[:, -1].min() for rows in curves.values()) > 0.8, "all arms learn"
try:
    ghost_norm_wrong(64, 8)
except ValueError as error:
    print("Keras 3:", str(error)[:100])
else:
    raise AssertionError("Keras 3 takes virtual_batch_size: this page is out of date")
assert away[0] < 1e-5, "each ghost comes out as from a norm of its own"
assert away[1] > 0.1, "the whole batch does not: the check tells them apart"
fresh = bnref.GhostBatchNorm(groups=8, momentum=0.9)
fresh(x, training=True)
assert np.allclose(fresh.moving_mean, 0.1 * np.mean(means, 0), atol=1e-5), "the mean of the means"
expected = 0.9 + 0.1 * np.mean(variances, 0)
assert np.allclose(fresh.moving_variance, expected, rtol=1e-5), "and of the variances"
