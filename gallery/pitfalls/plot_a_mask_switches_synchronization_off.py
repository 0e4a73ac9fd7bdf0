"""
A mask switches synchronization off, and nothing says so
========================================================

Keras 3's ``BatchNormalization(synchronized=True)`` synchronizes only as long as it gets no mask.
With one, each replica normalizes by its own sequences: two replicas whose data have means 0 and 10
remember **0.0 and 9.9 instead of 4.9**. Where all have the same data the outputs are still off by
√(3(R − 1)/2n) of a standard deviation for R replicas and n valid steps: **11 %** with 8 replicas of
8 sequences. There is no error and no warning, and a ``Masking`` or ``Embedding`` layer far above is
enough, for Keras hands its mask on.

The symptom: a sequence model gets worse with every GPU, although its batch norm is synchronized.
Question 1, *whose statistics*, is answered wrongly: the replica's, not the global batch's.

.. symptom:: worse on two GPUs
   :cause: ``synchronized=True`` in Keras 3 does nothing where a mask reaches the layer
   :check: ``strategy.experimental_local_results(layer.moving_mean.value)`` are not all equal
   :likelihood: sometimes
   :question: 1
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import devices

devices.configure()
N, STEPS, CHANNELS = 64, 20, 256

# %%
# Three layers, each after a ``Masking`` that hides steps of zeros. Momentum 0 remembers the last
# batch alone.


def keras_norm():  # wrong: it will get a mask
    return keras.layers.BatchNormalization(synchronized=True, momentum=0.0)


class Packed(keras.layers.Layer):  # right, in Keras alone: the valid steps as one long batch
    def __init__(self):
        super().__init__()
        self.norm, self.supports_masking = keras_norm(), True

    def build(self, shape):
        self.norm.build((None, shape[-1]))

    def call(self, x, training=False, mask=None):
        y = self.norm(tf.boolean_mask(x, mask), training=training)
        return tf.tensor_scatter_nd_update(tf.zeros_like(x), tf.where(mask), y)


class SyncMasked(bnref.SyncBatchNorm, bnref.MaskedBatchNorm):  # right
    """Whose statistics? The valid steps of all replicas; every method is inherited."""


def on_replicas(count, make_norm, x):
    """The outputs for the whole batch, and what each replica remembers of channel 0."""
    through_one = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(devices.replicas(count), through_one)
    with strategy.scope():
        norm = make_norm()
        model = keras.Sequential([keras.layers.Masking(0.0), norm])
        model.build((None, STEPS, CHANNELS))
    parts = tf.reshape(x, (count, -1, STEPS, CHANNELS))

    @tf.function
    def step():
        context = tf.distribute.get_replica_context
        return strategy.run(lambda: model(parts[context().replica_id_in_sync_group], training=True))

    values = strategy.experimental_local_results
    y = np.concatenate([each.numpy() for each in values(step())])
    layer = norm.norm if isinstance(norm, Packed) else norm
    return y, [float(each[0]) for each in values(layer.moving_mean.value)]


random = np.random.default_rng(0)
mask = np.arange(STEPS) < random.integers(5, STEPS + 1, N)[:, None]
alike = random.standard_normal((N, STEPS, CHANNELS)).astype("float32") * mask[..., None]
other = (alike + 10 * (np.arange(N) >= N // 2)[:, None, None]) * mask[..., None]

ARMS = {"Keras, with a mask": keras_norm, "Keras, packed": Packed}
ARMS["SyncMasked"] = lambda: SyncMasked(momentum=0.0)
remembered = {name: on_replicas(2, norm, other)[1] for name, norm in ARMS.items()}
true = other[mask][:, 0].mean()

counts, gaps = np.array([1, 2, 4, 8]), {name: [] for name in ARMS}
reference = bnref.MaskedBatchNorm()(alike, mask=mask, training=True).numpy()[mask]
for name, norm in ARMS.items():
    for count in counts:
        y = on_replicas(count, norm, alike)[0][mask]
        gaps[name].append(np.sqrt(np.mean(np.square(y - reference))))
predicted = np.sqrt(1.5 * (counts - 1) / mask.sum())

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.9), layout="constrained")
for (name, means), style in zip(remembered.items(), ("C1s", "C2D", "C0o"), strict=True):
    left.plot(means, [name] * 2, style, ms=9)
    right.plot(counts, gaps[name], style + "-", ms=7, label=name)
left.axvline(true, color="#555555", ls=":", lw=1)
left.set(title="Moving mean, two replicas", xlabel="dotted: all valid steps", ylim=(2.5, -0.5))
right.plot(counts, predicted, "k:", label="√(3(R − 1)/2n)")
right.set(title="Error of the outputs", xlabel="replicas R", ylabel="σ", xticks=counts)
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# To check your own model, print what the replicas remember (the line above): synchronized layers
# remember the same. Where nobody gave a mask, look for ``Masking`` and ``mask_zero=True``. The fix
# is one of the two classes; a mask taken off instead counts the padding
# (:doc:`/gallery/variants/plot_masked_sequences`).
#
# Conclusion
# ----------

print(f"all valid steps: {true:.2f}; remembered:", remembered)
for name, gap in gaps.items():
    print(f"{name:20} error with {counts} replicas:", np.round(gap, 4))
print("predicted:", predicted.round(4))
wrong, packed, sync_masked = ARMS
assert max(abs(np.array(remembered[wrong]) - [0, 10])) < 0.3 and abs(true - 4.9) < 0.1
assert max(abs(np.array(remembered[packed] + remembered[sync_masked]) - true)) < 1e-3
assert max(abs(gaps[wrong][1:] / predicted[1:] - 1)) < 0.25 and abs(gaps[wrong][3] - 0.11) < 0.02
assert max(gaps[packed] + gaps[sync_masked]) < 1e-4
