"""
An empty replica leaves NaN behind, and unequal ones a wrong mean
=================================================================

The last batch of a data set can leave a replica without an example. Its mean is 0/0, and in Keras 3
its moving statistics are NaN from then on. The first replica's, which are read and saved, stay
clean; but the gradient of γ is NaN as well, and after one step γ is NaN on every replica, while the
loss is finite. tf_keras gives no NaN, but saves the mean over the replicas: 60 and 4 examples with
means near 0 and 10 have together a variance of :claim:`7.5 <true>`; the mean of their two variances
is :claim:`0.7 <mean_of_variances>`.

.. symptom:: NaN or infinity
   :doctor: empty_replica
   :check: ``(replicas - 1) * -(-last // replicas) >= last``, where
           ``last = [len(x) for x, y in dataset][-1]`` and
           ``replicas = strategy.num_replicas_in_sync``

.. symptom:: worse on two GPUs
   :cause: replicas of different size are averaged as if they were equal
   :check: train the same with ``drop_remainder=True``: is it better?
   :likelihood: seldom
   :question: 2
"""

# %%
# Check
# -----
# Give the check the data as ``fit`` gets them: it counts how the last batch is shared out. In a
# model that is trained already, look for NaN in γ and in each replica's statistics.

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

import bnref
from bnref import devices, doctor, training
from bnref_gallery import defects
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Drop the remainder, or take a norm that counts the examples of all replicas.
#
# Wrong
# ^^^^^


def batches(dataset):
    return dataset.batch(32)


# %%
# Right
# ^^^^^


def whole_batches(dataset):
    return dataset.batch(32, drop_remainder=True)


# %%
# Wrong, the norm
# ^^^^^^^^^^^^^^^


def norm_of_each_replica(**options):
    return keras.layers.BatchNormalization(**options)


# %%
# Right, the norm
# ^^^^^^^^^^^^^^^


def norm_of_all_replicas(**options):
    return keras.layers.BatchNormalization(synchronized=True, **options)


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how): without the counts. Of n examples each of R replicas
# gets ⌈n/R⌉ until none are left: 10 for 8 replicas are 2, 2, 2, 2, 2, 0, 0, 0. A mean loss over no
# example is NaN too, so divide the sum by the global batch.
#
# Met in `keras-team/keras#11858 <https://github.com/keras-team/keras/issues/11858>`_ (NaN in the
# weights of a model whose loss was fine) and `tensorflow/tensorflow#52986
# <https://github.com/tensorflow/tensorflow/issues/52986>`_.
#
# Experiment
# ----------
# How 33 examples are shared out over two replicas, in batches of 32.

devices.configure()
strategy = training.strategy(2)
on_each = strategy.experimental_local_results


def shares(batched):
    dataset = strategy.experimental_distribute_dataset(batched(tf.data.Dataset.range(33)))
    return [[len(part) for part in on_each(batch)] for batch in dataset]


print("with the remainder:", shares(batches), "without:", shares(whole_batches))

# %%
# What layers remember of one batch, at momentum 0, with 64 − n examples and with n on the replicas.


class MeanOfReplicas(keras.layers.BatchNormalization):
    """Reads and saves the mean over the replicas, as tf_keras does."""

    def add_weight(self, *args, **options):
        if options["name"].startswith("moving"):
            options["aggregation"] = "mean"
        return super().add_weight(*args, **options)


NORMS = {
    "Keras": norm_of_each_replica,
    "Keras, mean": MeanOfReplicas,
    "tf_keras": tf_keras.layers.BatchNormalization,
    "synchronized": norm_of_all_replicas,
    "PooledBatchNorm": bnref.PooledBatchNorm,
}
x = np.float32(np.random.default_rng(0).standard_normal((2, 64, 1)) + [[[0]], [[10]]])
SIZES = (32, 24, 16, 8, 4, 1, 0)

# %%


def trained_by(layer, optimizer):
    """One step of a layer that is to put out zeros; returns the loss."""
    weights = layer.trainable_variables

    def train(share):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(share, training=True) ** 2, 0) / 64
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    return training.on_replicas(strategy, train)


def remembered(norm):
    """Mean, variance, γ and the loss: as read, and as the second replica has them; by size."""
    with strategy.scope():
        layer = norm(momentum=0.0)
        layer.build((None, 1))
        of_tf_keras = isinstance(layer, tf_keras.layers.Layer)
        optimizer = (tf_keras if of_tf_keras else keras).optimizers.SGD(1e-3)
        optimizer.build(layer.trainable_variables)
    train, rows = trained_by(layer, optimizer), []
    variables = layer.moving_mean, layer.moving_variance, layer.gamma
    for size in SIZES:
        loss = sum(train([x[0, size:], x[1, :size]]))
        second = [on_each(v if of_tf_keras else v.value)[1] for v in variables]
        rows.append([[float(v.numpy()[0]) for v in (*each, loss)] for each in (variables, second)])
    return np.array(rows)


# %%

read = {name: remembered(norm) for name, norm in NORMS.items()}
together = [np.concatenate([x[0, size:], x[1, :size]]) for size in SIZES]
true = np.array([[each.mean(), each.var()] for each in together])

# %%

fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.6), layout="constrained")
for k, (ax, title) in enumerate(zip(axes, ("Mean", "Variance"), strict=True)):
    for name, style in zip(read, ("C1s-", "C3v-", "C4x-", "C0o", "C2+"), strict=True):
        ax.plot(SIZES, read[name][:, 0, k], style, ms=8, label=None if k else name)
    ax.plot(SIZES, true[:, k], "k:", label=None if k else "both replicas together")
    ax.set_ylabel(f"moving {title.lower()}")
    ax.set(title=f"{title} remembered", xlabel="second replica's share of 64", xticks=SIZES[:-2])
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# At a share of 0 the triangle of "Keras, mean" is missing from the figure: it is NaN. First, where
# the NaN is. Axes: size, what is read or the second replica's, and which number.

assert shares(batches) == [[16, 16], [1, 0]], "the last batch leaves a replica empty"
assert shares(whole_batches) == [[16, 16]], "none is left empty without the remainder"
print("empty second replica:", *(f"{name} {v[-1].round(2).tolist()}" for name, v in read.items()))
statistics = {name: values[..., :2] for name, values in read.items()}
of_keras, mean_of_keras = statistics["Keras"], statistics["Keras, mean"]
shows = np.isfinite(of_keras[:-1]).all() and np.isnan(of_keras[-1, 1]).all()
defects.defect("empty_replica_nan", shows)
if shows:
    assert np.isnan(mean_of_keras[-1]).all(), "the mean over the replicas is NaN on each"
    assert np.isfinite(of_keras[:, 0]).all(), "what Keras reads and saves stays clean"
for name, values in read.items():
    gamma, loss = values[..., 2], values[..., 3]
    spoilt = shows and name in ("Keras", "Keras, mean")
    assert np.isfinite(gamma[:-1]).all(), f"{name}: γ is finite while no replica is empty"
    assert (np.isnan(gamma[-1]) == spoilt).all(), f"{name}: γ is NaN on both replicas, or on none"
    assert np.isfinite(loss).all(), f"{name}: the loss, a sum over all examples, is finite"
assert np.isnan(float(tf.reduce_mean(tf.zeros(0)))), "a mean over no example is not"

# %%
# What is remembered of 60 and 4 examples.

print("60 and 4:", *(f"{name} {v[4, 0, :2].round(2)}" for name, v in read.items()), "true", true[4])
of_tf_keras = statistics["tf_keras"]
assert np.isfinite(of_tf_keras).all(), "tf_keras gives no NaN"
assert (of_tf_keras[-1, 1] == of_tf_keras[-2, 1]).all(), "and leaves the empty replica's statistics"
assert abs(true[4, 0] - 0.7) < 0.1, "the mean of 60 and 4 examples together"
for name in ("Keras, mean", "tf_keras"):
    mean, variance = statistics[name][4, 0]
    assert abs(mean - 5.4) < 0.1, f"{name}: the mean of the two means"
    assert abs(variance - 0.7) < 0.1, f"{name}: the mean of the two variances"
claim("true", true[4, 1], "variance of 60 and 4 examples together", above=7.3, below=7.7)
claim("mean_of_variances", of_tf_keras[4, 0, 1], "tf_keras, of 60 and 4", above=0.6, below=0.8)
for name in ("synchronized", "PooledBatchNorm"):
    apart = abs(statistics[name] - true[:, None]).max()
    assert apart < 1e-3, f"{name}: remembers both replicas together, on each of them"

# %%
# The doctor.


def found(name, number):
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), NORMS[name]()])
    report = doctor.examine(model, x[0, :number], only=["empty_replica"])
    return [finding.evidence for finding in report.findings]


evidence = found("Keras", 33)
print("the doctor, of the wrong layer:", *evidence)
assert evidence, "the check fires on 33 examples in batches of 32"
assert not found("Keras", 32), "is silent on 32"
assert not found("synchronized", 33), "and on the synchronized layer"
assert not found("PooledBatchNorm", 33), "and on the one that pools its memory"
