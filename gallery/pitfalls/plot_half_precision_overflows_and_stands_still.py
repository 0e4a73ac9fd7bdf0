"""
In half precision sums of squares overflow, and moving averages stand still
===========================================================================

float16 ends at 65,504. A variance taken in it is infinite once the sum of N squares is above that:
with 512 values from **σ = 11** on, or with one value more than 256 from the mean. The layer then
puts out **0 for every input**, or NaN. bfloat16 does not overflow, but a moving average kept in it
stops where a step is less than half a unit in its last place: on its way from 1 to 4 with ρ = 0.99
at **3.22**, and what should go from 1 to 1.3 never moves. Keras 3 is safe under its *mixed*
policies, where statistics and averages are float32; under a pure ``"bfloat16"`` or ``"float16"``
its averages stand still.

The symptom: NaN, equal outputs or moving statistics that hardly move, in half precision alone.
Question 2, *remembered how*, is answered wrongly where averages stand still: with fewer digits than
a step needs. Where the moments themselves overflow, none is.

.. symptom:: NaN or infinity
   :doctor: variance_overflows
   :cause: the inputs overflow float16, or their sum of squares where a layer takes it in float16
   :check: ``x.dtype == "float16" and not np.isfinite(layer.moving_variance).all()``, where ``x``
           are the layer's inputs, as :func:`bnref.norms.inputs` has them

.. symptom:: every prediction is the same
   :doctor: variance_overflows
   :cause: the variance has overflowed to infinity, so that 1/√σ² is 0
   :check: ``x.dtype == "float16" and not np.isfinite(layer.moving_variance).all()``, where ``x``
           are the layer's inputs, as :func:`bnref.norms.inputs` has them

.. symptom:: statistics never change
   :doctor: half_precision_population
   :check: ``layer.moving_variance.dtype != "float32"``
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor

# %%
# Moments in the precision of the inputs, and moments in float32.


def in_half(x, epsilon=1e-3):  # wrong
    mean = tf.reduce_mean(x, 0)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), 0)
    return (x - mean) * tf.math.rsqrt(variance + tf.cast(epsilon, x.dtype))


def in_single(x):  # right
    return tf.cast(in_half(tf.cast(x, tf.float32)), x.dtype)


def spread(y):
    return float(tf.math.reduce_std(tf.cast(y, tf.float32)))


random = np.random.default_rng(0)
x, sigmas = random.standard_normal((512, 1)), 2.0 ** np.arange(9)
mixed = keras.layers.BatchNormalization(dtype="mixed_float16")
NORMS = {
    "in float16": in_half,
    "in float32": in_single,
    "Keras, mixed_float16": lambda x: mixed(x, training=True),
}
with tf.device("CPU:0"):  # some GPU kernels add up in float32
    inputs = [tf.cast(sigma * x, tf.float16) for sigma in sigmas]
    spreads = {name: [spread(norm(each)) for each in inputs] for name, norm in NORMS.items()}
    mean_of_many_ones = float(tf.reduce_mean(tf.ones(65536, tf.float16)))

# %%
# Batches of 2 and 6 alternating: mean 4 and variance 4, exactly, in any precision. An average P
# moves by (1 − ρ)(4 − P), and stands still where that is less than half of the distance from P to
# the next number. From 2 to 4 that distance is 2⁻⁶ in bfloat16 and 2⁻⁹ in float16, so P stops at
# 4 − 2⁻⁷/(1 − ρ) and 4 − 2⁻¹⁰/(1 − ρ).

batch = tf.constant([[2.0], [6.0]] * 8)


def averages(layer, batch, steps):
    train, trace = tf.function(lambda: [layer(batch, training=True) for _ in range(10)]), []
    layer.build(batch.shape)
    for _ in range(steps // 10):
        train()
        trace.append(np.float32(layer.moving_variance.numpy())[0])
    return trace


keras_norm = keras.layers.BatchNormalization
traces = {
    policy: averages(keras_norm(dtype=policy, momentum=0.99), batch, 1000)
    for policy in ("bfloat16", "float16", "mixed_bfloat16")
}
slow = averages(keras_norm(dtype="float16", momentum=0.999), batch, 2000)[-1]
near = averages(keras_norm(dtype="bfloat16"), 0.57 * batch, 1000)[-1]
ours = averages(bnref.BatchNorm(dtype="bfloat16"), batch, 1000)[-1]

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 4.2), layout="constrained")
for (name, values), style in zip(spreads.items(), ("C1s-", "C0o-", "C2+:"), strict=True):
    left.semilogx(sigmas, values, style, ms=5, lw=1, label=name)
left.axvline((65504 / 512) ** 0.5, color="#555555", ls=":", lw=1, label="√(65,504/512)")
left.set(xlabel="σ of the inputs", title="σ of the outputs, N = 512")
for (name, values), style in zip(traces.items(), ("C1", "C3--", "C0:"), strict=True):
    right.plot(range(10, 1001, 10), values, style, lw=2, label=f"average in {name}")
right.set(xlabel="step", title="Moving variance, batches of 4", ylim=(0.9, 4.1))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# To check your own model, print ``layer.moving_variance.dtype``: it has to be float32; or call
# ``bnref.doctor.examine(model, data, only=["half_precision_population"])``, which sees it, and with
# ``variance_overflows`` what Keras's layer cannot normalize: inputs beyond float16. The fix::
#
#     keras.config.set_dtype_policy("mixed_bfloat16")  # not "bfloat16", nor set_floatx
#     norm = keras.layers.BatchNormalization(dtype="float32")  # this layer alone
#     norm = bnref.BatchNorm()  # float32 statistics under every policy
#
# Met in `keras-team/keras#9582 <https://github.com/keras-team/keras/issues/9582>`_ (the loss is NaN
# after ``set_floatx("float16")``); `keras-team/keras-core#412
# <https://github.com/keras-team/keras-core/pull/412>`_ took the layer out of half precision.
#
# Conclusion
# ----------

for name, values in spreads.items():
    print(f"{name:20} σ of the outputs:", *(f"{value:.2f}" for value in values))
overflowed = sigmas > (65504 / np.sum(x**2)) ** 0.5
outputs = np.array(list(spreads.values()))
assert (outputs[0][overflowed] == 0).all() and np.isnan(mean_of_many_ones)
assert abs(outputs[0][~overflowed] - 1).max() < 0.01 and abs(outputs[1:] - 1).max() < 0.01
ends = {name: trace[-1] for name, trace in traces.items()}
print("moving variance at the end:", ends, "float16, ρ = 0.999:", slow, "from 1 to 1.3:", near)
assert abs(ends["bfloat16"] - (4 - 2**-7 / 0.01)) < 0.02 and abs(slow - (4 - 2**-10 / 0.001)) < 0.01
assert abs(ends["float16"] - (4 - 2**-10 / 0.01)) < 0.01 and near == 1
assert abs(ends["mixed_bfloat16"] - 4) < 0.001 and abs(ours - 4) < 0.001


def found(cause, policy, x):
    model = keras.Sequential([keras.Input((1,), dtype="float32"), keras_norm(dtype=policy)])
    report = doctor.examine(model, np.float32(x), only=[cause])
    return [finding.evidence for finding in report.findings]


stands = found("half_precision_population", "bfloat16", x)
overflows = found("variance_overflows", "mixed_float16", 65504 * x)
print("the doctor, of the wrong layers:", *stands, *overflows)
assert stands and overflows, "the checks fire on the wrong layers"
assert not found("half_precision_population", "mixed_bfloat16", x), "and are silent on averages"
assert not found("variance_overflows", "mixed_float16", sigmas[-1] * x), "and sums in float32"
