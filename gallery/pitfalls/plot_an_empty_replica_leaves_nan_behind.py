"""
An empty replica leaves NaN behind, and unequal ones a wrong mean
=================================================================

The last batch of a data set can leave a replica **without an example**. Its mean is 0/0, and in
Keras 3 its moving statistics are **NaN** from then on. The first replica's, which are read and
saved, stay clean, so the NaN shows only where the other one predicts; averaged over the replicas,
as tf_keras does, all are NaN. Two replicas of 60 and 4 examples with means near 0 and 10 have
together the mean 0.7 and the variance **7.5**; the means of their means and variances are 5.4 and
**0.7**. With ``synchronized=True`` both cases are right.

The symptom: NaN after the last batch of an epoch, on some devices only; or worse results where the
batches do not divide evenly. Question 2, *remembered how*, is answered wrongly: without the counts.

.. symptom:: NaN or infinity
   :cause: the last batch leaves a replica without an example, and its statistics become NaN
   :check: ``0 < len(x_train) % global_batch_size < strategy.num_replicas_in_sync``
   :likelihood: sometimes
   :question: 2

.. symptom:: worse on two GPUs
   :cause: replicas of different size are averaged as if they were equal
   :check: train the same with ``drop_remainder=True``: is it better?
   :likelihood: seldom
   :question: 2
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import devices

devices.configure()
through_one = tf.distribute.ReductionToOneDevice()
strategy = tf.distribute.MirroredStrategy(devices.replicas(2), through_one)
on_each = strategy.experimental_local_results

# %%
# 33 examples in batches of 32 for two replicas are shared out so:

dataset = strategy.experimental_distribute_dataset(tf.data.Dataset.range(33).batch(32))
shares = [[len(part) for part in on_each(batch)] for batch in dataset]
shares

# %%
# What layers remember of one batch, at momentum 0, with 64 − n examples and with n on the replicas:


class MeanOfReplicas(keras.layers.BatchNormalization):  # wrong unless the shares are equal
    """Remembers as tf_keras does: the mean of the replicas' statistics."""

    def add_weight(self, *args, **options):
        if options["name"].startswith("moving"):
            options["aggregation"] = "mean"
        return super().add_weight(*args, **options)


NORMS = {
    "Keras, saved": keras.layers.BatchNormalization,  # wrong: the first replica's
    "mean of replicas": MeanOfReplicas,
    "synchronized": partial(keras.layers.BatchNormalization, synchronized=True),  # right
    "PooledBatchNorm": bnref.PooledBatchNorm,  # right; refuses a batch without an example
}
x = np.float32(np.random.default_rng(0).standard_normal((2, 64, 1)) + [[[0]], [[10]]])
sizes, refused = (32, 24, 16, 8, 4, 1, 0), []


def remembered(norm):
    """Mean and variance on each replica, after batches of all sizes."""
    with strategy.scope():
        layer = norm(momentum=0.0)
        layer.build((None, 1))
    step = tf.function(
        lambda x: strategy.run(layer, (x,), {"training": True}), reduce_retracing=True
    )
    for size in sizes:
        parts = [tf.constant(x[0, size:]), tf.constant(x[1, :size])]
        value = strategy.experimental_distribute_values_from_function
        try:
            step(value(lambda replica, p=parts: p[replica.replica_id_in_sync_group]))
            means, variances = (
                on_each(v.value) for v in (layer.moving_mean, layer.moving_variance)
            )
            yield [[float(m[0]), float(v[0])] for m, v in zip(means, variances, strict=True)]
        except tf.errors.InvalidArgumentError as error:
            refused.append(str(error))
            yield np.full((2, 2), np.nan)


read = {name: np.array([*remembered(norm)]) for name, norm in NORMS.items()}
both = [np.concatenate([x[0, size:], x[1, :size]]) for size in sizes]
true = np.array([[each.mean(), each.var()] for each in both])

fig, axes = plt.subplots(1, 2, figsize=(6.2, 3.6), layout="constrained")
for k, (ax, title) in enumerate(zip(axes, ("Mean", "Variance"), strict=True)):
    for (name, values), style in zip(read.items(), ("C1s-", "C3v-", "C0o", "C2+"), strict=True):
        ax.plot(sizes, values[:, 0, k], style, ms=8, label=None if k else name)
    ax.plot(sizes, true[:, k], "k:", label=None if k else "both replicas together")
    ax.set(title=f"{title} remembered", xlabel="second replica's share of 64", xticks=sizes[:-2])
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# At n = 0 the triangle is missing: NaN. The loss has the same fault: the mean over no example is
# NaN, and its gradient goes to all. Divide the sum of the losses by the global batch. To check your
# own model, look for NaN on every replica, not in what is read::
#
#     [v.numpy() for v in strategy.experimental_local_results(layer.moving_mean.value)]
#
# The fix is ``dataset.batch(32, drop_remainder=True)`` or a synchronized layer. Met in
# `keras-team/keras#11858 <https://github.com/keras-team/keras/issues/11858>`_ (NaN in the weights
# of a model whose loss was fine) and `tensorflow/tensorflow#52986
# <https://github.com/tensorflow/tensorflow/issues/52986>`_.
#
# Conclusion
# ----------

print("empty second replica:", *(f"{name} {v[-1].round(2).tolist()}" for name, v in read.items()))
print("60 and 4:", *(f"{name} {v[4, 0].round(2)}" for name, v in read.items()), "true", true[4])
assert shares == [[16, 16], [1, 0]] and len(refused) == 1
saved, mean, synchronized, pooled = read.values()
assert np.isfinite(saved[:, 0]).all() and np.isnan(saved[-1, 1]).all() and np.isnan(mean[-1]).all()
assert np.isfinite(saved[:-1]).all() and np.isnan(float(tf.reduce_mean(tf.zeros(0))))
assert abs(mean[4, 0] - [5.4, 0.7]).max() < 0.1 and abs(true[4] - [0.7, 7.5]).max() < 0.1
assert max(abs(synchronized - true[:, None]).max(), abs(pooled - true[:, None])[:-1].max()) < 1e-3
