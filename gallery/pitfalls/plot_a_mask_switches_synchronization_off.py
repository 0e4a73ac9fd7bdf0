"""
A mask switches synchronization off, and nothing says so
========================================================

Keras 3's ``BatchNormalization(synchronized=True)`` synchronizes only as long as it gets no mask.
With one, each replica normalizes by its own sequences: two replicas whose data have means 0 and 10
remember :claim:`0.0 and 9.9 <remembered>` in place of :claim:`4.9 <true>`. Where all have the same
kind of data, the outputs of 8 replicas of 8 sequences are still off by
:claim:`11 % <error_8>` of a standard deviation. Nothing warns, and a ``Masking`` layer far above is
enough. tf_keras does it right.

.. symptom:: worse on two GPUs
   :doctor: mask_unsynchronizes
   :check: ``layer.synchronized and np.ptp(values(layer.moving_mean.value), axis=0).any()``, where
           ``values = strategy.experimental_local_results``
"""

# %%
# Check
# -----
# The check looks whether a mask reaches a synchronized layer on several replicas. Where nobody gave
# a mask, look for ``Masking`` and ``mask_zero=True``. By hand, print what the replicas remember:
# synchronized layers remember the same.

from functools import partial

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
# Take the valid steps of all replicas: by two layers of bnref in one, or in Keras alone by packing
# them into one long batch. To drop the mask is no fix, because padding counts then
# (:doc:`/gallery/variants/plot_masked_sequences`).
#
# Wrong
# ^^^^^


def masked_norm(library=keras):
    return library.layers.BatchNormalization(synchronized=True, momentum=0.0)


# %%
# Right
# ^^^^^


class SyncMasked(bnref.SyncBatchNorm, bnref.MaskedBatchNorm):
    """Whose statistics? The valid steps of all replicas; every method is inherited."""


# %%
# Wrong, Keras alone
# ^^^^^^^^^^^^^^^^^^


def norm_behind_a_mask():
    return [keras.layers.Masking(0.0), masked_norm()]


# %%
# Right, Keras alone
# ^^^^^^^^^^^^^^^^^^


class Packed(keras.layers.Layer):
    def build(self, shape):
        self.supports_masking = True
        self.norm = masked_norm()
        self.norm.build((None, shape[-1]))

    def call(self, inputs, training=None, mask=None):
        y = self.norm(tf.boolean_mask(inputs, mask), training=training)
        return tf.tensor_scatter_nd_update(tf.zeros_like(inputs), tf.where(mask), y)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics): the replica's, and not the global batch's. Where
# all replicas have the same kind of data, statistics of n/R steps in place of n, for R replicas and
# n valid steps, put the outputs off by √(3(R − 1)/2n) of a standard deviation, so that a sequence
# model gets worse with every GPU.
#
# Experiment
# ----------
# Each layer follows a ``Masking`` that hides steps of zeros; momentum 0 remembers one batch alone.

devices.configure()
N, STEPS, CHANNELS = 64, 20, 256
NORMS = {
    "Keras, with a mask": masked_norm,
    "tf_keras, with a mask": partial(masked_norm, tf_keras),
    "Keras, packed": Packed,
    "SyncMasked": partial(SyncMasked, momentum=0.0),
}


def on_replicas(count, name, x):
    """The outputs for the whole batch, and what each replica remembers of channel 0."""
    library = tf_keras if "tf_keras" in name else keras
    strategy = training.strategy(count)
    with strategy.scope():
        norm = NORMS[name]()
        model = library.Sequential([library.layers.Masking(0.0), norm])
        model.build((None, STEPS, CHANNELS))
    step = training.on_replicas(strategy, partial(model, training=True))
    y = np.concatenate(step(x.reshape(count, -1, STEPS, CHANNELS)))
    mean = getattr(norm, "norm", norm).moving_mean
    values = strategy.experimental_local_results(mean if library is tf_keras else mean.value)
    return y, [float(value[0]) for value in values]


random = np.random.default_rng(0)
mask = np.arange(STEPS) < random.integers(5, STEPS + 1, N)[:, None]
alike = random.standard_normal((N, STEPS, CHANNELS)).astype("float32") * mask[..., None]
other = (alike + 10 * (np.arange(N) >= N // 2)[:, None, None]) * mask[..., None]
remembered = {name: on_replicas(2, name, other)[1] for name in NORMS}
true = other[mask][:, 0].mean()

# %%
# The error of the outputs against one replica that has all the sequences.

counts, gaps = np.array([1, 2, 4, 8]), {name: [] for name in NORMS}
reference = bnref.MaskedBatchNorm()(alike, mask=mask, training=True).numpy()[mask]
for name in NORMS:
    for count in counts:
        y = on_replicas(count, name, alike)[0][mask]
        gaps[name].append(np.sqrt(np.mean(np.square(y - reference))))
predicted = np.sqrt(1.5 * (counts - 1) / mask.sum())

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.9), layout="constrained")
for (name, means), style in zip(remembered.items(), ("C1s", "C4+", "C2D", "C0o"), strict=True):
    left.plot(means, [name] * 2, style, ms=9)
    right.plot(counts, gaps[name], style + "-", ms=7, label=name)
left.axvline(true, color="#555555", ls=":", lw=1)
left.set(title="Moving mean, two replicas", xlabel="dotted: all valid steps", ylim=(3.5, -0.5))
right.plot(counts, predicted, "k:", label="√(3(R − 1)/2n)")
right.set(title="Error of the outputs", xlabel="replicas R", ylabel="σ", xticks=counts)
fig.legend(loc="outside lower center", ncols=2)
left.set_ylabel("layer")
plt.show()

# %%
# Proof
# -----
# What the replicas remember, and the errors.

print(f"predicted: {predicted.round(4)}; remembered:", remembered)
for name, gap in gaps.items():
    print(f"{name:21} error with {counts} replicas:", np.round(gap, 4))
wrong, *right = NORMS
shows = np.ptp(remembered[wrong]) > 1
defects.defect("mask_unsynchronizes", shows)
claim("true", true, "mean of all valid steps", above=4.8, below=5.0)
if shows:
    claim("remembered", remembered[wrong], "remembered by two replicas", above=-0.3, below=10.3)
    claim("error_8", gaps[wrong][3], "error with 8 replicas, deviations", above=0.09, below=0.13)
    ratios = np.array(gaps[wrong][1:]) / predicted[1:]
    claim("formula", ratios, "error over √(3(R − 1)/2n)", above=0.75, below=1.25)
    first, second = remembered[wrong]
    assert abs(first) < 0.3, "the first replica remembers the mean of its own data, 0"
    assert abs(second - 10) < 0.3, "and the second that of its own, 10"
for name in right:
    assert np.ptp([true, *remembered[name]]) < 1e-3, f"{name}: remembers all valid steps"
    assert max(gaps[name]) < 1e-4, f"{name}: right, however many replicas"

# %%
# The doctor on both layers.


def right_norm_behind_a_mask():
    return [keras.layers.Masking(0.0), SyncMasked()]


def found(layers):
    with training.strategy(2).scope():
        inputs = x = keras.Input((STEPS, CHANNELS))
        for layer in layers():
            x = layer(x)
        model = keras.Model(inputs, x)
    report = doctor.examine(model, other, only=["mask_unsynchronizes"])
    return [finding.evidence for finding in report.findings]


evidence = found(norm_behind_a_mask)
print("the doctor, of the wrong layer:", *evidence)
assert evidence, "the check fires on Keras's layer with a mask"
assert not found(right_norm_behind_a_mask), "and is silent on the right one"
