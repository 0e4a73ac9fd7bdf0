"""
A variance taken in one pass cancels: negative, NaN, or hundreds of times too large
===================================================================================

E[x²] − E[x]² subtracts two large numbers. In float32 its relative error is about **2⁻²⁴ (μ/σ)²**: 6
parts in a million at μ = 10σ, 6 % at 1,000σ, and from 4,096σ on, 100 %: **about half of the
variances come out negative or 0**. TensorFlow's fused batch norm does it when XLA compiles it, and
gives NaN. Keras 3 and tf_keras do it with ``synchronized=True``, and cut off at 0 what is negative:
such a channel is multiplied by 1/√ε = **32**.

The symptom: NaN, or a model that learns on one GPU and not on two, or not compiled. None of the
three questions is answered wrongly: *whose statistics*, 1, is answered rightly and miscalculated.

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

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

import bnref
from bnref import devices, doctor, training
from bnref_gallery import defects

# %%
# Both formulas are equal on paper. Beside them: TensorFlow's fused operation, compiled, and
# synchronized layers on two replicas of 128; momentum 0 remembers the last batch alone.

devices.configure()
N, CHANNELS, EPSILON = 256, 256, 1e-3


def one_pass(x):  # wrong
    return tf.reduce_mean(tf.square(x), 0) - tf.square(tf.reduce_mean(x, 0))


def two_pass(x):  # right
    return tf.reduce_mean(tf.math.squared_difference(x, tf.reduce_mean(x, 0)), 0)


@tf.function(jit_compile=True)
def compiled(x):
    one, zero = tf.ones(CHANNELS), tf.zeros(CHANNELS)
    y, _, corrected = tf.compat.v1.nn.fused_batch_norm(x[:, None, None], one, zero, epsilon=EPSILON)
    return y[:, 0, 0], corrected * (N - 1) / N


def on_two_replicas(norm, **options):
    with strategy.scope():
        layer = norm(momentum=0.0, epsilon=EPSILON, **options)
        layer.build((None, CHANNELS))

    step = training.on_replicas(strategy, partial(layer, training=True))
    return lambda x: (tf.concat(step(np.split(x, 2)), 0), layer.moving_variance)


strategy = training.strategy(2)
ARMS = {"TensorFlow, fused, XLA": compiled, "one pass": lambda x: (x, one_pass(x))}
for library in (keras, tf_keras):
    norm = on_two_replicas(library.layers.BatchNormalization, synchronized=True)
    ARMS[f"{library.__name__}, synchronized"] = norm
ARMS["bnref.SyncBatchNorm"] = on_two_replicas(bnref.SyncBatchNorm)
ARMS["two passes, XLA"] = tf.function(lambda x: (x, two_pass(x)), jit_compile=True)

random, ratios = np.random.default_rng(0), np.logspace(0, 5, 11)
errors, unusable = {name: [] for name in ARMS}, {name: [] for name in ARMS}
for ratio in ratios:
    x = random.normal(ratio, 1, (N, CHANNELS)).astype("float32")
    true = x.var(0, dtype=float)
    outputs = {name: [keras.ops.convert_to_numpy(v) for v in arm(x)] for name, arm in ARMS.items()}
    for name, (_, variance) in outputs.items():
        errors[name].append(np.median(np.abs(variance / true - 1)))
        unusable[name].append(np.mean(variance <= 0))

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 4), layout="constrained")
for name, style in zip(ARMS, ("C3v-", "C4d-", "C1s-", "kx", "C0o-", "C2+-"), strict=True):
    left.loglog(ratios, errors[name], style, ms=5, lw=1, label=name)
    right.semilogx(ratios, 100 * np.array(unusable[name]), style, ms=5, lw=1)
left.loglog(ratios, 2.0**-24 * ratios**2, "k:", label="2⁻²⁴ (μ/σ)²")
left.set(xlabel="μ/σ", title="Relative error of σ²")
right.set(xlabel="μ/σ", ylabel="% of channels", title="Variance negative or 0")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Where μ/σ is 10 or less the error is 6 parts in a million, and nobody notices. Raw inputs are
# another matter: years (2,000 ± 8) have 250, the seconds of one day in Unix time 70,000. To check
# your own model, take μ/σ of what enters the layer, channel by channel, as
# ``bnref.doctor.examine(model, data, only=["large_mean"])`` does. The fix: ``two_pass``, or
# :class:`bnref.layers.SyncBatchNorm`; or centre the inputs once (``keras.layers.Normalization``).
# Met in XLA (`tensorflow/tensorflow#118701
# <https://github.com/tensorflow/tensorflow/issues/118701>`_), and cut off at 0 by
# `keras-team/keras#18795 <https://github.com/keras-team/keras/pull/18795>`_.
#
# Conclusion
# ----------

for name, error in errors.items():
    print(f"{name:22} error at μ/σ = 10, 1,000, 100,000:", *(f"{error[i]:.1e}" for i in (2, 6, 10)))
cancels = {name: error[-1] > 0.5 for name, error in errors.items()}
xla, one, sync, *others = cancels.values()
defects.defect("variance_cancels_in_xla", xla)
defects.defect("variance_cancels", sync)
assert [one, *others] == [True, True, False, False]
for name, share in unusable.items():
    assert cancels[name] or (max(errors[name]) < 0.01 and max(share) == 0)
    if cancels[name]:
        theory = (np.array(errors[name]) / (2.0**-24 * ratios**2))[2:7]
        assert min(theory) > 0.1 and max(theory) < 10, "the theory's order of magnitude"
        assert min(share[-2:]) > 0.3 and max(share[-2:]) < 0.8, "about half"
        assert "synchronized" in name or errors[name][-1] > 200
lost = np.isnan(outputs["TensorFlow, fused, XLA"][0]).any(0).mean()
y, variance = outputs["tf_keras, synchronized"]
factor = np.median((y.std(0) / np.sqrt(true))[variance == 0])
print(f"μ/σ = 100,000: {lost:.0%} of the channels NaN; variance 0: grow {factor:.1f}-fold")
assert (0.2 < lost < 0.8) == xla and abs(factor * EPSILON**0.5 - 1) < 0.05


def found(norm, inputs):
    model = keras.Sequential([keras.Input((CHANNELS,)), norm])
    report = doctor.examine(model, inputs, only=["large_mean"])
    return [finding.evidence for finding in report.findings]


wrong = keras.layers.BatchNormalization(synchronized=True)
print("the doctor, of the last inputs:", *found(wrong, x))
assert found(wrong, x), "the check fires where the variance cancels"
assert not found(wrong, x - x.mean(0)), "and is silent where the inputs are centred"
assert not found(bnref.SyncBatchNorm(), x), "and where the variance is taken in two passes"
