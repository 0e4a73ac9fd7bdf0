"""
A mask switches synchronization off, and nothing says so
========================================================

Keras 3's ``BatchNormalization(synchronized=True)`` synchronizes only as long as it gets no mask.
With one, each replica normalizes by its own sequences: two replicas whose data have means 0 and 10
remember **0.0 and 9.9 instead of 4.9**. Where all have the same data the outputs are still off by
√(3(R − 1)/2n) of a standard deviation for R replicas and n valid steps: **11 %** with 8 replicas of
8 sequences. Nothing warns, and a ``Masking`` layer far above is enough. tf_keras does it right.

The symptom: a sequence model gets worse with every GPU, although its batch norm is synchronized.
Question 1, *whose statistics*, is answered wrongly: the replica's, not the global batch's.

.. symptom:: worse on two GPUs
   :doctor: mask_unsynchronizes
   :check: ``layer.synchronized and np.ptp(values(layer.moving_mean.value), axis=0).any()``, where
           ``values = strategy.experimental_local_results``
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

import bnref
from bnref import devices, doctor, training
from bnref_gallery import defects

devices.configure()
N, STEPS, CHANNELS = 64, 20, 256

# %%
# Each layer follows a ``Masking`` that hides steps of zeros; momentum 0 remembers one batch alone.


def norm_of(library):  # wrong with Keras 3: it will get a mask
    return library.layers.BatchNormalization(synchronized=True, momentum=0.0)


class Packed(keras.layers.Layer):  # right, in Keras alone: the valid steps as one long batch
    def build(self, shape):
        self.norm, self.supports_masking = norm_of(keras), True
        self.norm.build((None, shape[-1]))

    def call(self, inputs, training=None, mask=None):
        y = self.norm(tf.boolean_mask(inputs, mask), training=training)
        return tf.tensor_scatter_nd_update(tf.zeros_like(inputs), tf.where(mask), y)


class SyncMasked(bnref.SyncBatchNorm, bnref.MaskedBatchNorm):  # right
    """Whose statistics? The valid steps of all replicas; every method is inherited."""


ARMS = {"Keras, with a mask": norm_of, "tf_keras, with a mask": norm_of}
ARMS |= {"Keras, packed": lambda _: Packed(), "SyncMasked": lambda _: SyncMasked(momentum=0.0)}


def on_replicas(count, name, x):
    """The outputs for the whole batch, and what each replica remembers of channel 0."""
    library, strategy = tf_keras if "tf_keras" in name else keras, training.strategy(count)
    with strategy.scope():
        norm = ARMS[name](library)
        model = library.Sequential([library.layers.Masking(0.0), norm])
        model.build((None, STEPS, CHANNELS))
    step = training.on_replicas(strategy, partial(model, training=True))
    y = np.concatenate(step(x.reshape(count, -1, STEPS, CHANNELS)))
    values, mean = strategy.experimental_local_results, getattr(norm, "norm", norm).moving_mean
    return y, [float(v[0]) for v in values(mean if library is tf_keras else mean.value)]


random = np.random.default_rng(0)
mask = np.arange(STEPS) < random.integers(5, STEPS + 1, N)[:, None]
alike = random.standard_normal((N, STEPS, CHANNELS)).astype("float32") * mask[..., None]
other = (alike + 10 * (np.arange(N) >= N // 2)[:, None, None]) * mask[..., None]
remembered = {name: on_replicas(2, name, other)[1] for name in ARMS}
true = other[mask][:, 0].mean()

counts, gaps = np.array([1, 2, 4, 8]), {name: [] for name in ARMS}
reference = bnref.MaskedBatchNorm()(alike, mask=mask, training=True).numpy()[mask]
for name in ARMS:
    for count in counts:
        y = on_replicas(count, name, alike)[0][mask]
        gaps[name].append(np.sqrt(np.mean(np.square(y - reference))))
predicted = np.sqrt(1.5 * (counts - 1) / mask.sum())

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.9), layout="constrained")
for (name, means), style in zip(remembered.items(), ("C1s", "C4+", "C2D", "C0o"), strict=True):
    left.plot(means, [name] * 2, style, ms=9)
    right.plot(counts, gaps[name], style + "-", ms=7, label=name)
left.axvline(true, color="#555555", ls=":", lw=1)
left.set(title="Moving mean, two replicas", xlabel="dotted: all valid steps", ylim=(3.5, -0.5))
right.plot(counts, predicted, "k:", label="√(3(R − 1)/2n)")
right.set(title="Error of the outputs", xlabel="replicas R", ylabel="σ", xticks=counts)
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# To check your own model, print what the replicas remember (above): synchronized layers remember
# the same; or call ``bnref.doctor.examine(model, data, only=["mask_unsynchronizes"])``. Where
# nobody gave a mask, look for ``Masking`` and ``mask_zero=True``. The fix is one of the two
# classes; without the mask padding counts (:doc:`/gallery/variants/plot_masked_sequences`).
#
# Conclusion
# ----------

print(f"predicted: {predicted.round(4)}; all valid steps: {true:.2f}; remembered:", remembered)
for name, gap in gaps.items():
    print(f"{name:21} error with {counts} replicas:", np.round(gap, 4))
wrong, *right = ARMS
shows = np.ptp(remembered[wrong]) > 1
defects.defect("mask_unsynchronizes", shows)
if shows:
    assert max(abs(np.array(remembered[wrong]) - [0, 10])) < 0.3
    assert (
        max(abs(gaps[wrong][1:] / predicted[1:] - 1)) < 0.25 and abs(gaps[wrong][3] - 0.11) < 0.02
    )
assert abs(true - 4.9) < 0.1 and max(np.ptp([true, *remembered[n]]) for n in right) < 1e-3
assert max(max(gaps[name]) for name in right) < 1e-4


def found(norm_of):
    with training.strategy(2).scope():
        inputs = keras.Input((STEPS, CHANNELS))
        model = keras.Model(inputs, norm_of(keras)(keras.layers.Masking(0.0)(inputs)))
    report = doctor.examine(model, other, only=["mask_unsynchronizes"])
    return [finding.evidence for finding in report.findings]


evidence = found(ARMS[wrong])
print("the doctor, of the wrong layer:", *evidence)
assert evidence, "the check fires on Keras's layer with a mask"
assert not found(ARMS["SyncMasked"]), "and is silent on the right one"
