"""
Several replicas: whose statistics normalize, and which are remembered?
=======================================================================

Each replica's own normalize, and the first replica's are remembered, unless you say otherwise. That
does no harm while each replica gets a fair share of the data: with shuffled images two replicas end
at :claim:`88 % <shuffled>`, and one device at :claim:`88 % <one_shuffled>`. Where each replica gets
the images of another camera, they end at :claim:`58 % <by_camera>`. Remembering the pooled
statistics of all replicas gives :claim:`67 % <pooled>`, and synchronized batch norm
:claim:`88 % <synchronized>`, as one device does, for one collective in each direction.

.. symptom:: worse on two GPUs
   :doctor: replicas_differ
   :check: print ``layer.moving_mean`` on every replica
"""

# %%
# Check
# -----
# The check compares what the replicas remember, in deviations. Ask it after training and before any
# evaluation by :func:`bnref.training.evaluate`, which makes the replicas agree.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import devices, doctor, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Shuffle before the batch is shared out. Where that cannot be, because a replica's data stay where
# they are, or where its batch is small (:doc:`plot_batch_size_per_replica`), synchronize the norms.
# Keras's own layer has ``synchronized=True`` for it.
#
# Wrong
# ^^^^^


def global_batch_wrong(random):
    """The first half is for replica 0."""
    dark = random.integers(0, 3000, 32)
    bright = random.integers(3000, 6000, 32)
    return np.concatenate([dark, bright])


# %%
# Right
# ^^^^^


def global_batch_right(random):
    """The first half is for replica 0."""
    dark = random.integers(0, 3000, 32)
    bright = random.integers(3000, 6000, 32)
    both = np.concatenate([dark, bright])
    return random.permutation(both)


# %%
# Wrong, data that cannot be shuffled
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^


def norm_wrong():
    return bnref.BatchNorm(momentum=0.9)


# %%
# Right, data that cannot be shuffled
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^


def norm_right():
    return bnref.SyncBatchNorm(momentum=0.9)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics) and, after it, at question 2 (remembered how). In
# training each camera's images are normalized by that camera's own statistics,
#
# .. math:: \hat x = \frac{x - \mu_r}{\sqrt{\sigma_r^2 + \varepsilon}} \qquad \text{on replica } r,
#
# so the network never sees the difference between the cameras. At inference one population is used
# for both, and any population leaves the difference in them: this is why a better memory,
# :class:`bnref.layers.PooledBatchNorm`, helps so little. Synchronized batch norm uses μ and σ² of
# the global batch in training too, as Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1, does
# with the whole mini-batch. Which memory is saved:
# :doc:`/gallery/multi_gpu/plot_what_several_replicas_remember`.
#
# Met in `tensorflow/tensorflow#18222 <https://github.com/tensorflow/tensorflow/issues/18222>`_ and
# `tensorflow/models#100 <https://github.com/tensorflow/models/issues/100>`_.
#
# Experiment
# ----------
# Digits from two cameras, the second with bright images of a third of the contrast. A run takes
# global batches of 64, of which each replica gets a half. The loss is divided by the global batch,
# and the optimizer adds up the gradients of the replicas.

devices.configure()
data = datasets.load("mnist").take(train=3000, test=1000)
STEPS, SEEDS = 120, range(scale.at_scale(quick=3, full=10))
ORDERS = {"shuffled": global_batch_right, "by camera": global_batch_wrong}


def two_cameras(x):
    """Every image as it is; then each bright, with a third of the contrast."""
    return np.concatenate([x, 0.4 + x / 3])


x_train, x_test = two_cameras(data.x_train), two_cameras(data.x_test)
y_train, y_test = np.tile(data.y_train, 2), np.tile(data.y_test, 2)

# %%
# One network an arm, compiled once, whose weights are set anew for each run.


def learn(norm, replicas):
    """Test accuracy every 20 steps, a row a seed, for both orders of the data; and the run."""
    strategy = training.strategy(replicas)
    network = partial(models.perceptron, norm, inputs=(28, 28, 1))
    with strategy.scope():
        model = network()
        optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.2, STEPS))
    run, curves = training.Run(model, optimizer), {}
    for order, global_batch in ORDERS.items():
        curves[order] = []
        for seed in SEEDS:
            keras.utils.set_random_seed(seed)
            model.set_weights(network().get_weights())
            optimizer.iterations.assign(0)
            curves[order].append(trained(run, global_batch, np.random.default_rng(seed)))
    return {order: np.array(rows) for order, rows in curves.items()}, run


def trained(run, global_batch, random):
    accuracies = []
    for number in range(1, STEPS + 1):
        chosen = global_batch(random)
        run.step(x_train[chosen], y_train[chosen])
        if number % 20 == 0:
            accuracies.append(run.evaluate(x_test, y_test)[1])
    return accuracies


# %%

ARMS = {
    "one device": (norm_wrong, 1),
    "each its own": (norm_wrong, 2),
    "pooled memory": (partial(bnref.PooledBatchNorm, momentum=0.9), 2),
    "synchronized": (norm_right, 2),
}
curves, finished = {}, {}
for name, arm in ARMS.items():
    curves[name], finished[name] = learn(*arm)

# %%

fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.8), layout="constrained", sharey=True)
fig.suptitle("Two replicas, two cameras")
steps = range(20, STEPS + 1, 20)
for ax, order in zip(axes, ORDERS, strict=True):
    for style, (name, each) in zip(("C4", "C1", "C2", "C0--"), curves.items(), strict=True):
        ax.plot(steps, each[order].T, style, lw=0.8, alpha=0.6)
        ax.plot(steps, each[order].mean(0), style, lw=2.2, label=name)
    ax.set(title=order, xlabel="training step", ylim=(0, 1))
axes[0].set(ylabel="test accuracy, both cameras")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# The accuracies at the end.

end = {name: {order: rows[:, -1] for order, rows in each.items()} for name, each in curves.items()}
for name, each in end.items():
    print(f"{name:14}", {order: rows.round(3).tolist() for order, rows in each.items()})
shuffled = [each["shuffled"] for each in end.values()]
assert np.ptp([each.mean() for each in shuffled]) < 0.04, "fair shares: all arms learn alike"
claim("one_shuffled", shuffled[0], "accuracy, one device, shuffled", above=0.75)
claim("shuffled", shuffled[1], "accuracy, two replicas, each its own, shuffled", above=0.75)

one, own, pooled, synchronized = (each["by camera"] for each in end.values())
claim("by_camera", own, "accuracy, each its own, by camera", above=0.3, below=0.8)
claim("pooled", pooled, "accuracy, pooled memory, by camera", above=0.4, below=0.85)
claim("synchronized", synchronized, "accuracy, synchronized, by camera", above=0.75)
assert max(own.max(), pooled.max()) < one.min() - 0.05, "both are behind one device, by each seed"
assert own.mean() < one.mean() - 0.15, "each its own is more than 15 points behind"
assert pooled.mean() < (own.mean() + 2 * one.mean()) / 3, "the memory is the smaller fault"
assert np.abs(one - synchronized).max() < 0.03, "synchronized is one device, but for rounding"


# %%
# The doctor, after one more step by camera, as evaluation made the replicas equal.


def found(name):
    run, chosen = finished[name], global_batch_wrong(np.random.default_rng(0))
    some = x_train[chosen], y_train[chosen]
    run.step(*some)
    report = doctor.examine(run.model, some, only=["replicas_differ"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of the wrong model:", *found("each its own"))
assert found("each its own"), "the check fires where each remembers its own"
assert not found("synchronized"), "and is silent where the norms are synchronized"
