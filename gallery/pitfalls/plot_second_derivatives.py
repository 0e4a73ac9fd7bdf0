"""
Second derivatives through batch norm are wrong in Keras: ``tf.nn.moments`` stops one
=====================================================================================

A gradient penalty, a Hessian or MAML's outer gradient through Keras's batch norm is wrong, without
an error or a warning. In a small critic with leaky ReLU the gradient of the penalty is off by
:claim:`4 to 5 % <penalty>` of its length, MAML's by :claim:`6 to 16 % <maml>`, and a product with
the Hessian by :claim:`21 to 31 % <hessian>`; with softplus the product is off by
:claim:`20 times <hessian_softplus>` its length. The first derivative is right to rounding: ordinary
training is not concerned.

.. symptom:: a gradient penalty or a Hessian is wrong
   :cause: ``tf.nn.moments`` stops the gradient at the mean inside the variance
   :check: differentiate twice, and compare with differences of the first derivative, in float64
   :likelihood: usual
   :question: 1
"""

# %%
# Check
# -----
# ``value()`` is made of first derivatives: a gradient penalty, the loss after an inner step, the
# slope of the loss along a direction. In float64, without dropout and with softplus for ReLU, whose
# corners make slopes jump, a sound model is off by less than 1e-4.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

import bnref
from bnref_gallery import datasets, defects, scale
from bnref_gallery.claims import claim
from bnref_gallery.second_derivatives import TASKS, Critic

# %%


def gradient(value, variable):
    with tf.GradientTape() as tape:
        result = value()
    return tape.gradient(result, variable)


def error_by_differences(value, variable, size=1e-6):
    """The relative error of the gradient along a direction: below 1e-4 in a sound model."""
    direction = np.random.default_rng(0).standard_normal(variable.shape)
    found = tf.reduce_sum(gradient(value, variable) * direction)
    variable.assign_add(size * direction)
    ahead = value()
    variable.assign_sub(2 * size * direction)
    behind = value()
    variable.assign_add(size * direction)  # back to where it was
    by_differences = (ahead - behind) / (2 * size)
    return float(abs(found / by_differences - 1))


# %%
# Fix
# ---
# Take another layer, or write the normalization with plain operations. Keras's
# ``BatchNormalization(synchronized=True)`` is right too, on one device as on many; but its
# variance, E[x²] − E[x]², :doc:`cancels <plot_the_one_pass_variance_cancels>` where the mean is
# large. tf_keras is right for images in float32, which its fused kernel computes, and wrong for the
# rest. PyTorch and Flax are right: :doc:`the table of conformance </conformance>`.
#
# Wrong
# ^^^^^


def wrong_layer(**options):
    return keras.layers.BatchNormalization(**options)


# %%
# Right
# ^^^^^


def right_layer(**options):
    return bnref.BatchNorm(**options)


# %%
# Wrong, plain operations
# ^^^^^^^^^^^^^^^^^^^^^^^


def wrong(x, training=True):
    axes = range(x.shape.rank - 1)
    mean, variance = tf.nn.moments(x, axes)
    return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)


# %%
# Right, plain operations
# ^^^^^^^^^^^^^^^^^^^^^^^


def right(x, training=True):
    axes = range(x.shape.rank - 1)
    mean = tf.reduce_mean(x, axes)
    variance = tf.reduce_mean((x - mean) ** 2, axes)
    return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics). In the second pass the mean inside the variance is
# taken for a constant, as if it were not this batch's. With n values a channel,
#
# .. math:: \frac{\partial\sigma^2}{\partial x_j} = \frac{2 (x_j - \mu)}{n}, \qquad
#           \frac{\partial^2\sigma^2}{\partial x_i\,\partial x_j}
#           = \frac2n \Bigl(\delta_{ij} - \frac1n\Bigr).
#
# ``tf.nn.moments`` has a ``stop_gradient`` around μ, since `tensorflow#19609
# <https://github.com/tensorflow/tensorflow/pull/19609>`_. It changes nothing in the first formula
# (Ioffe & Szegedy 2015, arXiv 1502.03167, section 3), because deviations add up to 0. It takes −1/n
# out of the second: the part along a shift of the whole batch. Weights shift a batch by the mean of
# what they multiply. So the error is large after softplus, which is positive, and small after tanh.
#
# Experiment
# ----------
# The tasks of :mod:`bnref_gallery.second_derivatives`, on 32 noisy digits: WGAN-GP's penalty
# (Gulrajani et al. 2017, arXiv 1704.00028, section 4, against batch norm in a critic for another
# reason: scores depend on other examples), and MAML's step (Finn et al. 2017, arXiv 1703.03400).

data = datasets.load("mnist").take(train=1000, test=100)
NORMS = {
    "plain operations": lambda dtype: right,
    "tf.nn.moments": lambda dtype: wrong,
    "keras": wrong_layer,
    "tf_keras, not fused": partial(tf_keras.layers.BatchNormalization, fused=False),
    "tf_keras, fused, float32": tf_keras.layers.BatchNormalization,
    "keras, synchronized": partial(keras.layers.BatchNormalization, synchronized=True),
    "bnref": right_layer,
}


def tasks(norm, activation, seed):
    """The weights, and the number of each task as a function without arguments."""
    dtype = "float32" if "float32" in norm else "float64"
    random = np.random.default_rng(seed)
    chosen = random.choice(1000, 32)
    x = data.x_train[chosen] + random.normal(0, 0.1, (32, 28, 28, 1))
    y = np.where(data.y_train[chosen] < 5, -1, 1)
    weights = tf.Variable(random.normal(0, 1 / 12, (2, 3, 3, 16, 16)), dtype=dtype)
    critic = Critic([NORMS[norm](dtype=dtype) for _ in range(2)], activation)
    given = critic, weights, tf.constant(x, dtype), tf.constant(y, dtype)
    return weights, [partial(task, *given) for task in TASKS.values()]


def gradients(norm, activation, seed):
    """One row a task."""
    weights, values = tasks(norm, activation, seed)
    return np.array([gradient(value, weights) for value in values]).reshape(len(values), -1)


# %%
# Each norm behind leaky ReLU, and Keras's behind two more activations.

arms = {norm: (norm, tf.nn.leaky_relu) for norm in list(NORMS)[1:]}
arms |= {f"keras, {each.__name__}": ("keras", each) for each in (tf.nn.tanh, tf.nn.softplus)}
activations = {activation for _, activation in arms.values()}
errors = {arm: [] for arm in arms}
for seed in range(scale.at_scale(quick=3, full=20)):
    right_ones = {each: gradients("plain operations", each, seed) for each in activations}
    for arm, (norm, activation) in arms.items():
        expected = right_ones[activation]
        off = np.linalg.norm(gradients(norm, activation, seed) - expected, axis=1)
        errors[arm].append(off / np.linalg.norm(expected, axis=1))

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.7), layout="constrained")
for k, (task, style) in enumerate(zip(TASKS, ("C0o", "C1s", "C2^", "C4|"), strict=True)):
    for row, found in enumerate(errors.values()):
        heights = [row + 0.15 * (k - 1.5)] * len(found)
        ax.plot(np.array(found)[:, k], heights, style, ms=7, label=None if row else task)
ax.set(title="Relative error of the gradient by the weights", xscale="log")
ax.set(yticks=range(len(arms)), yticklabels=list(arms), ylim=(7.6, -0.6), xlim=(1e-17, 100))
ax.set(xlabel="length of the error, as a share of the right gradient's")
fig.legend(loc="outside lower center", ncols=2)
ax.set_ylabel("implementation")
plt.show()

# %%
# Proof
# -----
# The check, on wrong and right. Then the errors. In float32 a value may fall on the other side of
# leaky ReLU's corner, so there the median of the seeds counts.


def errors_that_the_check_finds(norm):
    weights, values = tasks(norm, tf.nn.softplus, 0)
    off = [error_by_differences(value, weights) for value in values[:3]]
    print("the check,", norm, off)
    return off


for norm in ("tf.nn.moments", "keras"):
    assert min(errors_that_the_check_finds(norm)) > 1e-3, f"the check finds {norm}, in each task"
for norm in ("plain operations", "bnref"):
    assert max(errors_that_the_check_finds(norm)) < 1e-4, f"the check is silent on {norm}"

# %%
# The errors of the figure.

low = {arm: np.min(each, 0) for arm, each in errors.items()}
high = {arm: np.max(each, 0) for arm, each in errors.items()}
for arm in arms:
    print(arm, *(f"{a:.1e} to {b:.1e};" for a, b in zip(low[arm], high[arm], strict=True)))
    assert high[arm][3] < 1e-3, f"the first derivative of {arm} is right"
for arm in ("keras, synchronized", "bnref", "tf_keras, fused, float32"):
    assert np.median(errors[arm], 0).max() < 1e-3, f"{arm} is right in each task"
shows = bool(low["keras"][1] > 0.1)
defects.defect("second_derivative", shows)
if shows:
    penalty, hessian, maml, _ = np.transpose(errors["keras"])
    claim("penalty", penalty, "error of the penalty's gradient, leaky ReLU", above=0.03, below=0.12)
    claim("hessian", hessian, "error of the Hessian's product, leaky ReLU", above=0.15, below=0.45)
    claim("maml", maml, "error of MAML's gradient, leaky ReLU", above=0.02, below=0.25)
    softplus = np.transpose(errors["keras, softplus"])[1]
    claim("hessian_softplus", softplus, "error of the Hessian's product, softplus", above=10)
    assert high["keras, tanh"][:3].max() < 0.1, "tanh: small"
    same = errors["keras"], errors["tf.nn.moments"], errors["tf_keras, not fused"]
    assert np.ptp(same, axis=0).max() < 1e-6, "the layers inherit it from tf.nn.moments"
