"""
In half precision sums of squares overflow, and moving averages stand still
===========================================================================

float16 ends at 65,504. A variance of 512 values that is taken in it is infinite from a standard
deviation of :claim:`11.25 <overflows_from>` on; the layer then puts out 0 for every input. bfloat16
does not overflow, but a moving average that is kept in it stops too early, because it cannot hold
small steps: on its way from 1 to 4, with momentum 0.99, it stops at :claim:`3.22 <stops_at>`. Keras
3 is safe under its *mixed* policies, where statistics and averages are float32; under a pure
``"bfloat16"`` or ``"float16"`` its averages stand still.

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

# %%
# Check
# -----
# One check looks at the precision of the averages, the other at what the norm makes of the inputs.

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Take a mixed policy, ``keras.config.set_dtype_policy("mixed_bfloat16")``, and not ``"bfloat16"``
# nor ``set_floatx``; or float32 for this layer alone. The layers of bnref have float32 statistics
# under every policy. In code of your own, cast before the moments are taken.
#
# Wrong
# ^^^^^


def norm_in_bfloat16(**options):
    return keras.layers.BatchNormalization(dtype="bfloat16", **options)


# %%
# Right
# ^^^^^


def norm_in_mixed_precision(**options):
    return keras.layers.BatchNormalization(dtype="mixed_bfloat16", **options)


# %%
# Wrong, code of your own
# ^^^^^^^^^^^^^^^^^^^^^^^


def normalized_in_half(x, epsilon=1e-3):
    mean = tf.reduce_mean(x, 0)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), 0)
    return (x - mean) * tf.math.rsqrt(variance + tf.cast(epsilon, x.dtype))


# %%
# Right, code of your own
# ^^^^^^^^^^^^^^^^^^^^^^^


def normalized_in_single(x, epsilon=1e-3):
    y = normalized_in_half(tf.cast(x, tf.float32), epsilon)
    return tf.cast(y, x.dtype)


# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    model.bfloat16()
#    y = model(x.bfloat16())
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    with torch.autocast(device, torch.bfloat16):
#        y = model(x)
#
# Why
# ---
# Where averages stand still, it goes wrong at question 2 (remembered how): with fewer digits than a
# step needs. An average P moves by (1 − ρ)(4 − P), unless that is below half the distance to the
# next number. From 2 to 4 this distance is 2⁻⁶ in bfloat16 and 2⁻⁹ in float16, so P stops at 4 −
# 2⁻⁷/(1 − ρ) and 4 − 2⁻¹⁰/(1 − ρ). With ρ = 0.99 bfloat16 does not even leave 1 on its way to 1.3.
#
# Where the moments overflow, the arithmetic is wrong and nothing else. The sum of N squares is
# above 65,504 from a deviation of √(65,504/N) on, or with one value that is more than 256 from the
# mean. The mean of 65,536 ones is NaN in float16: their sum and their number are both infinite.
#
# Met in `keras-team/keras#9582 <https://github.com/keras-team/keras/issues/9582>`_ (the loss is NaN
# after ``set_floatx("float16")``); `keras-team/keras-core#412
# <https://github.com/keras-team/keras-core/pull/412>`_ took the layer out of half precision.
#
# Experiment
# ----------
# Outputs of 512 values of growing deviation, by moments in float16 and in float32.

x = np.random.default_rng(0).standard_normal((512, 1))
sigmas = 2.0 ** np.arange(9)
finer_sigmas = np.arange(8, 16, 0.25)
mixed = keras.layers.BatchNormalization(dtype="mixed_float16")


def normalized_by_keras(x):
    return mixed(x, training=True)


def spreads_of_outputs(norm, sigmas):
    with tf.device("CPU:0"):  # some GPU kernels add up in float32
        outputs = [norm(tf.cast(sigma * x, tf.float16)) for sigma in sigmas]
    return np.array([np.std(np.float32(y)) for y in outputs])


NORMS = {
    "in float16": normalized_in_half,
    "in float32": normalized_in_single,
    "Keras, mixed_float16": normalized_by_keras,
}
spreads = {name: spreads_of_outputs(norm, sigmas) for name, norm in NORMS.items()}
finer = spreads_of_outputs(normalized_in_half, finer_sigmas)
with tf.device("CPU:0"):
    mean_of_many_ones = float(tf.reduce_mean(tf.ones(65536, tf.float16)))

# %%
# Averages of batches of 2 and 6 alternating: mean 4 and variance 4, exactly, in any precision.

batch = tf.constant([[2.0], [6.0]] * 8)


def averages(layer, batch, steps):
    """The moving variance every 10 steps."""
    layer.build(batch.shape)
    trace = []

    @tf.function
    def ten_steps():
        for _ in range(10):
            layer(batch, training=True)

    for _ in range(steps // 10):
        ten_steps()
        trace.append(np.float32(layer.moving_variance.numpy())[0])
    return trace


def norm_in_float16(**options):
    return keras.layers.BatchNormalization(dtype="float16", **options)


traces = {
    "bfloat16": averages(norm_in_bfloat16(momentum=0.99), batch, 1000),
    "float16": averages(norm_in_float16(momentum=0.99), batch, 1000),
    "mixed_bfloat16": averages(norm_in_mixed_precision(momentum=0.99), batch, 1000),
}
slow = averages(norm_in_float16(momentum=0.999), batch, 2000)[-1]
near = averages(norm_in_bfloat16(), 0.57 * batch, 1000)[-1]
ours = averages(bnref.BatchNorm(dtype="bfloat16"), batch, 1000)[-1]

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 4.2), layout="constrained")
for (name, values), style in zip(spreads.items(), ("C1s-", "C0o-", "C2+:"), strict=True):
    left.semilogx(sigmas, values, style, ms=5, lw=1, label=name)
left.axvline((65504 / 512) ** 0.5, color="#555555", ls=":", lw=1, label="√(65,504/512)")
left.set(xlabel="σ of the inputs", ylabel="σ of the outputs", title="N = 512")
for (name, values), style in zip(traces.items(), ("C1", "C3--", "C0:"), strict=True):
    right.plot(range(10, 1001, 10), values, style, lw=2, label=f"average in {name}")
right.set(xlabel="step", ylabel="moving variance", title="A batch's is 4", ylim=(0.9, 4.1))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# From which deviation on the outputs are 0.

for name, values in spreads.items():
    print(f"{name:20} σ of the outputs:", *(f"{value:.2f}" for value in values))
zeros_from = min(sigma for sigma, value in zip(finer_sigmas, finer, strict=True) if value == 0)
claim("overflows_from", zeros_from, "least σ with outputs 0", above=10, below=13)
for sigma, value in zip(sigmas, spreads["in float16"], strict=True):
    if sigma**2 * np.sum(x**2) > 65504:
        assert value == 0, f"σ = {sigma}: the sum overflows, and every output is 0"
    else:
        assert abs(value - 1) < 0.01, f"σ = {sigma}: the sum does not overflow, and all is well"
for name in ("in float32", "Keras, mixed_float16"):
    assert abs(spreads[name] - 1).max() < 0.01, f"{name}: right with every σ"
assert np.isnan(mean_of_many_ones), "the mean of 65,536 ones in float16 is infinity by infinity"

# %%
# Where the averages stop.

ends = {name: trace[-1] for name, trace in traces.items()}
print("moving variance at the end:", ends, "float16, ρ = 0.999:", slow, "from 1 to 1.3:", near)
claim("stops_at", ends["bfloat16"], "moving variance, bfloat16, ρ 0.99", above=3.2, below=3.24)
assert abs(ends["bfloat16"] - (4 - 2**-7 / 0.01)) < 0.02, "the formula, bfloat16"
assert abs(ends["float16"] - (4 - 2**-10 / 0.01)) < 0.01, "the formula, float16"
assert abs(slow - (4 - 2**-10 / 0.001)) < 0.01, "the formula, float16 and ρ = 0.999"
assert near == 1, "what should go from 1 to 1.3 never moves"
assert abs(ends["mixed_bfloat16"] - 4) < 0.001, "right under a mixed policy"
assert abs(ours - 4) < 0.001, "right in bnref"

# %%
# The doctor, on wrong and right layers.


def found(cause, norm, x):
    model = keras.Sequential([keras.Input((1,), dtype="float32"), norm])
    report = doctor.examine(model, np.float32(x), only=[cause])
    return [finding.evidence for finding in report.findings]


def norm_in_mixed_float16():
    return keras.layers.BatchNormalization(dtype="mixed_float16")


stands = found("half_precision_population", norm_in_bfloat16(), x)
overflows = found("variance_overflows", norm_in_mixed_float16(), 65504 * x)
print("the doctor, of the wrong layers:", *stands, *overflows)
assert stands, "a check fires on averages in bfloat16"
assert overflows, "another on inputs beyond float16"
assert not found("half_precision_population", norm_in_mixed_precision(), x), "silent on averages"
assert not found("variance_overflows", norm_in_mixed_float16(), 256 * x), "and on sums in float32"
