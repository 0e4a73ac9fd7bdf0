"""
A variance taken in one pass cancels: negative, NaN, or hundreds of times too large
===================================================================================

E[x²] − E[x]² subtracts two large numbers. In float32 its relative error is 2⁻²⁴(μ/σ)²: at a mean of
1,000 deviations :claim:`6 % <error_1000>`, and at 100,000 deviations
:claim:`62 % <unusable>` of the channels have a variance that is negative or 0. TensorFlow's fused
batch norm does it when XLA compiles it, and gives NaN. Keras 3 and tf_keras do it with
``synchronized=True``, and cut off at 0 what is negative: such a channel grows
:claim:`32-fold <factor>`, by 1/√ε.

.. symptom:: NaN or infinity
   :doctor: large_mean
   :check: of the layer's inputs (:func:`bnref.norms.inputs`), with axis 0 alone for vectors,
           ``np.max(np.abs(x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + layer.epsilon))`` is
           above 1,000

.. symptom:: worse on two GPUs
   :doctor: large_mean
   :cause: ``synchronized=True`` in Keras 3 and tf_keras computes the variance in one pass, and the
           inputs are not centred
   :check: of the layer's inputs (:func:`bnref.norms.inputs`), with axis 0 alone for vectors,
           ``np.max(np.abs(x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + layer.epsilon))`` is
           above 100
"""

# %%
# Check
# -----
# The check takes ``|μ|/σ`` of what enters each norm, channel by channel. Up to 10 the error is 6
# parts in a million. Raw inputs are another matter: years (2,000 ± 8) have 250, the seconds of one
# day in Unix time 70,000.

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
# Take the variance in two passes, as :class:`bnref.layers.SyncBatchNorm` does over replicas; or
# centre the inputs once (``keras.layers.Normalization``).
#
# Wrong
# ^^^^^


def one_pass(x):
    mean_of_squares = tf.reduce_mean(tf.square(x), 0)
    return mean_of_squares - tf.square(tf.reduce_mean(x, 0))


# %%
# Right
# ^^^^^


def two_pass(x):
    mean = tf.reduce_mean(x, 0)
    return tf.reduce_mean(tf.math.squared_difference(x, mean), 0)


# %%
# Wrong, several replicas
# ^^^^^^^^^^^^^^^^^^^^^^^


def wrong_layer(**options):
    return keras.layers.BatchNormalization(synchronized=True, **options)


# %%
# Right, several replicas
# ^^^^^^^^^^^^^^^^^^^^^^^


def right_layer(**options):
    return bnref.SyncBatchNorm(**options)


# %%
# Why
# ---
# The right statistics are meant (question 1, *whose statistics*), and they are miscalculated. A
# float32 has 24 significant bits. E[x²] is about μ² and rounded to 2⁻²⁴μ², so that the
# difference σ² carries this error, 2⁻²⁴(μ/σ)² of itself. From μ = 4,096σ on it is over 100 %.
#
# Met in XLA: `tensorflow/tensorflow#118701
# <https://github.com/tensorflow/tensorflow/issues/118701>`_. Keras cuts it off at 0 since
# `keras-team/keras#18795 <https://github.com/keras-team/keras/pull/18795>`_, which ends the NaN and
# not the error.
#
# Experiment
# ----------
# Both formulas, TensorFlow's fused operation, compiled, and synchronized layers on two replicas of
# 128 examples; momentum 0 remembers the last batch alone.

devices.configure()
strategy = training.strategy(2)
N, CHANNELS, EPSILON = 256, 256, 1e-3


@tf.function(jit_compile=True)
def fused_and_compiled(x):
    one, zero = tf.ones(CHANNELS), tf.zeros(CHANNELS)
    y, _, corrected = tf.compat.v1.nn.fused_batch_norm(x[:, None, None], one, zero, epsilon=EPSILON)
    return y[:, 0, 0], corrected * (N - 1) / N


def on_two_replicas(make_layer):
    """A function from x to the layer's outputs and the variance that it remembers."""
    with strategy.scope():
        layer = make_layer(momentum=0.0, epsilon=EPSILON)
        layer.build((None, CHANNELS))
    step = training.on_replicas(strategy, partial(layer, training=True))
    return lambda x: (tf.concat(step(np.split(x, 2)), 0), layer.moving_variance)


ARMS = {
    "TensorFlow, fused, XLA": fused_and_compiled,
    "one pass": lambda x: (x, one_pass(x)),
    "keras, synchronized": on_two_replicas(wrong_layer),
    "tf_keras, synchronized": on_two_replicas(
        partial(tf_keras.layers.BatchNormalization, synchronized=True)
    ),
    "bnref.SyncBatchNorm": on_two_replicas(right_layer),
    "two passes, XLA": tf.function(lambda x: (x, two_pass(x)), jit_compile=True),
}

# %%

random, ratios = np.random.default_rng(0), np.logspace(0, 5, 11)
errors, unusable = {name: [] for name in ARMS}, {name: [] for name in ARMS}
for ratio in ratios:
    x = random.normal(ratio, 1, (N, CHANNELS)).astype("float32")
    true = x.var(0, dtype=float)
    outputs = {name: [keras.ops.convert_to_numpy(v) for v in arm(x)] for name, arm in ARMS.items()}
    for name, (_, variance) in outputs.items():
        errors[name].append(np.median(np.abs(variance / true - 1)))
        unusable[name].append(np.mean(variance <= 0))

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 4), layout="constrained")
for name, style in zip(ARMS, ("C3v-", "C4d-", "C1s-", "kx", "C0o-", "C2+-"), strict=True):
    left.loglog(ratios, errors[name], style, ms=5, lw=1, label=name)
    right.semilogx(ratios, 100 * np.array(unusable[name]), style, ms=5, lw=1)
left.loglog(ratios, 2.0**-24 * ratios**2, "k:", label="2⁻²⁴ (μ/σ)²")
left.set(xlabel="μ/σ", ylabel="relative error", title="Error of σ²")
right.set(xlabel="μ/σ", ylabel="% of channels", title="Variance negative or 0")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# Which of them cancel, by how much, and what comes out.

for name, error in errors.items():
    print(f"{name:22} error at μ/σ = 10, 1,000, 100,000:", *(f"{error[i]:.1e}" for i in (2, 6, 10)))
cancels = {name: error[-1] > 0.5 for name, error in errors.items()}
defects.defect("variance_cancels_in_xla", cancels["TensorFlow, fused, XLA"])
defects.defect("variance_cancels", cancels["keras, synchronized"])
assert cancels["one pass"], "the formula in one pass cancels"
assert cancels["tf_keras, synchronized"], "tf_keras cancels, in every version"
assert not cancels["bnref.SyncBatchNorm"], "bnref does not"
assert not cancels["two passes, XLA"], "two passes do not, compiled either"
for name, share in unusable.items():
    if not cancels[name]:
        assert max(errors[name]) < 0.01, f"{name}: right everywhere"
        assert max(share) == 0, f"{name}: no variance is negative"
        continue
    theory = (np.array(errors[name]) / (2.0**-24 * ratios**2))[2:7]
    assert min(theory) > 0.1 and max(theory) < 10, f"{name}: the theory's order of magnitude"
    assert min(share[-2:]) > 0.3 and max(share[-2:]) < 0.8, f"{name}: about half are unusable"
    assert "synchronized" in name or errors[name][-1] > 200, f"{name}: hundreds of times too large"

# %%

claim("error_1000", errors["tf_keras, synchronized"][6], "error at 1,000", above=0.02, below=0.3)
claim("unusable", unusable["one pass"][-1], "variances negative or 0", above=0.3, below=0.8)
lost = np.isnan(outputs["TensorFlow, fused, XLA"][0]).any(0).mean()
print(f"XLA: {lost:.0%} of the channels are NaN")
assert (0.2 < lost < 0.8) == cancels["TensorFlow, fused, XLA"], "where it cancels, it gives NaN"
y, variance = outputs["tf_keras, synchronized"]
grown = np.median((y.std(0) / np.sqrt(true))[variance == 0])
claim("factor", grown, "deviation of a channel of variance 0, over σ", above=30, below=33.3)


def found(norm, inputs):
    model = keras.Sequential([keras.Input((CHANNELS,)), norm])
    report = doctor.examine(model, inputs, only=["large_mean"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of the last inputs:", *found(wrong_layer(), x))
assert found(wrong_layer(), x), "the check fires where the variance cancels"
assert not found(wrong_layer(), x - x.mean(0)), "and is silent where the inputs are centred"
assert not found(right_layer(), x), "and where the variance is taken in two passes"
