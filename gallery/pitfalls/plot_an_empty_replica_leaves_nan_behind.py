"""
An empty replica leaves NaN behind, and unequal ones a wrong mean
=================================================================

The last batch of a data set can leave a replica **without an example**. Its mean is 0/0, and in
Keras 3 its moving statistics are **NaN** from then on. The first replica's, which are read and
saved, stay clean; but the gradient of γ is NaN as well, and after one step **γ is NaN everywhere**,
while the loss is finite. tf_keras gives no NaN, but saves the mean over the replicas: 60 and 4
examples with means near 0 and 10 have together the mean 0.7 and the variance **7.5**; the means of
theirs are 5.4 and **0.7**. Right: ``synchronized=True``, :class:`~bnref.layers.PooledBatchNorm`.

The symptom: NaN after an epoch's last batch; or worse results where batches do not divide evenly.
Question 2, *remembered how*, is answered wrongly: without the counts.

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

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

import bnref
from bnref import devices, doctor, training
from bnref_gallery import defects

devices.configure()
strategy = training.strategy(2)
on_each = strategy.experimental_local_results

# %%
# Of n examples each of R replicas gets ⌈n/R⌉ until none are left: 10 for 8 replicas are 2, 2, 2, 2,
# 2, 0, 0, 0. And 33 in batches of 32 for two replicas are shared out so:

dataset = strategy.experimental_distribute_dataset(tf.data.Dataset.range(33).batch(32))
shares = [[len(part) for part in on_each(batch)] for batch in dataset]
shares

# %%
# What layers remember of one batch, at momentum 0, with 64 − n examples and with n on the replicas:


class MeanOfReplicas(keras.layers.BatchNormalization):  # wrong unless the shares are equal
    def add_weight(self, *args, **options):
        if options["name"].startswith("moving"):
            options["aggregation"] = "mean"
        return super().add_weight(*args, **options)


NORMS = {
    "Keras": keras.layers.BatchNormalization,  # wrong: the first replica's are read and saved
    "Keras, mean": MeanOfReplicas,
    "tf_keras": tf_keras.layers.BatchNormalization,  # wrong too: the mean is read and saved
    "synchronized": lambda **kw: keras.layers.BatchNormalization(synchronized=True, **kw),  # right
    "PooledBatchNorm": bnref.PooledBatchNorm,  # right
}
x = np.float32(np.random.default_rng(0).standard_normal((2, 64, 1)) + [[[0]], [[10]]])
sizes = 32, 24, 16, 8, 4, 1, 0


def remembered(norm):
    """Mean, variance and γ, as read and as the second replica has them, and the loss, per size."""
    with strategy.scope():
        layer = norm(momentum=0.0)
        layer.build((None, 1))
        library = tf_keras if isinstance(layer, tf_keras.layers.Layer) else keras
        optimizer, weights = library.optimizers.SGD(1e-3), layer.trainable_variables
        optimizer.build(weights)

    def train(share):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(share, training=True) ** 2, 0) / 64
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    train = training.on_replicas(strategy, train)
    read = layer.moving_mean, layer.moving_variance, layer.gamma
    for size in sizes:
        loss = sum(train([x[0, size:], x[1, :size]]))
        second = [on_each(v if library is tf_keras else v.value)[1] for v in read]
        yield [[float(v.numpy()[0]) for v in (*each, loss)] for each in (read, second)]


read = {name: np.array([*remembered(norm)]) for name, norm in NORMS.items()}
both = [np.concatenate([x[0, size:], x[1, :size]]) for size in sizes]
true = np.array([[each.mean(), each.var()] for each in both])

fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.6), layout="constrained")
for k, (ax, title) in enumerate(zip(axes, ("Mean", "Variance"), strict=True)):
    for name, style in zip(read, ("C1s-", "C3v-", "C4x-", "C0o", "C2+"), strict=True):
        ax.plot(sizes, read[name][:, 0, k], style, ms=8, label=None if k else name)
    ax.plot(sizes, true[:, k], "k:", label=None if k else "both replicas together")
    ax.set(title=f"{title} remembered", xlabel="second replica's share of 64", xticks=sizes[:-2])
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# At n = 0 the triangle is missing: NaN. A mean loss over no example is NaN too: divide the sum by
# the global batch. To check your own model, look for NaN in γ and in ``on_each`` of the statistics,
# or before it is trained ``bnref.doctor.examine(model, data, only=["empty_replica"])``. The fix is
# ``dataset.batch(32, drop_remainder=True)``, or one of the last two layers. Met in
# `keras-team/keras#11858 <https://github.com/keras-team/keras/issues/11858>`_ (NaN in the weights
# of a model whose loss was fine) and `tensorflow/tensorflow#52986
# <https://github.com/tensorflow/tensorflow/issues/52986>`_.
#
# Conclusion
# ----------

print("empty second replica:", *(f"{name} {v[-1].round(2).tolist()}" for name, v in read.items()))
print("60 and 4:", *(f"{name} {v[4, 0, :2].round(2)}" for name, v in read.items()), "true", true[4])
assert shares == [[16, 16], [1, 0]]
saved, spread, mean, synchronized, pooled = (each[..., :2] for each in read.values())
gamma, loss = np.moveaxis([*read.values()], -1, 0)[2:]
shows = np.isfinite(saved[:-1]).all() and np.isnan(saved[-1, 1]).all()
defects.defect("empty_replica_nan", shows)
assert not shows or (np.isnan(spread[-1]).all() and np.isfinite(saved[:, 0]).all())
assert (np.isnan(gamma[:2, -1]) == shows).all() and np.isnan(gamma).sum() == 4 * shows
assert np.isfinite(loss).all() and np.isnan(float(tf.reduce_mean(tf.zeros(0))))
assert np.isfinite(mean).all() and (mean[-1, 1] == mean[-2, 1]).all(), "tf_keras leaves them"
assert np.allclose([true[4], spread[4, 0], mean[4, 0]], [(0.7, 7.5), *[(5.4, 0.7)] * 2], atol=0.1)
assert abs(np.stack([synchronized, pooled]) - true[:, None]).max() < 1e-3


def found(name, number):
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), NORMS[name]()])
    report = doctor.examine(model, x[0, :number], only=["empty_replica"])
    return [finding.evidence for finding in report.findings]


evidence = found("Keras", 33)
print("the doctor, of the wrong layer:", *evidence)
assert evidence, "the check fires on 33 examples in batches of 32"
assert not found("Keras", 32), "is silent on 32"
assert not found("synchronized", 33) + found("PooledBatchNorm", 33), "and on the right layers"
