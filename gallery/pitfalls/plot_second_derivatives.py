"""
Second derivatives through batch norm are wrong in Keras: ``tf.nn.moments`` stops one
=====================================================================================

The first derivative is right. Differentiated again, the variance of ``tf.nn.moments`` has 0.5 where
0.375 is right, for four numbers, and 0 where −0.125 is. Keras's layer inherits it: an entry of the
second derivative of its loss below is −1.64 for −0.84. There is no error and no warning.

The symptom: a gradient penalty, a Hessian or the outer gradient of MAML is off, and finite
differences say so. The question answered wrongly is the first, *whose statistics*: in the second
pass the mean inside the variance is taken for a constant, as if it were not the mean of this batch.

.. symptom:: a gradient penalty or a Hessian is wrong
   :cause: ``tf.nn.moments`` stops the gradient at the mean inside the variance
   :check: differentiate twice, and compare with differences of the first derivative, in float64
   :likelihood: usual
   :question: 1
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import upstream

# %%
# Four numbers, and two functions of them: their variance, and a loss behind Keras's layer.

x = tf.constant([[0.0], [1.0], [2.0], [5.0]], tf.float64)
weights = tf.constant([[1.0], [2.0], [3.0], [4.0]], tf.float64)
layer = keras.layers.BatchNormalization(dtype="float64")


def stopped(x):
    """The variance as TensorFlow has it."""
    return tf.nn.moments(x, [0])[1]  # wrong, when it is differentiated twice


def plain(x):
    """The same variance by plain operations."""
    mean = tf.reduce_mean(x, axis=0)
    return tf.reduce_mean(tf.math.squared_difference(x, mean), axis=0)  # right


def loss(x):
    return tf.reduce_sum(weights * layer(x, training=True) ** 3)


# %%
# The derivative with respect to the first number is differentiated by all four. The first
# derivative is right, so that its central differences are what the second ought to be.


def first_derivative(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def differentiated(function):
    with tf.GradientTape() as tape:
        tape.watch(x)
        first = first_derivative(function, x)[0]
    return np.ravel(tape.gradient(first, x))


def differences(function, size=1e-4):
    step = size * tf.constant([[1.0], [0.0], [0.0], [0.0]], tf.float64)
    ahead = first_derivative(function, x + step)
    behind = first_derivative(function, x - step)
    return np.ravel(ahead - behind) / (2 * size)


names = {"tf.nn.moments": stopped, "plain operations": plain, "keras BatchNormalization": loss}
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), layout="constrained")
found, wanted = {}, {}
for ax, (name, function) in zip(axes, names.items(), strict=True):
    found[name] = differentiated(function)
    wanted[name] = differences(function)
    ax.plot(wanted[name], "C0o", ms=9, label="differences of the first")
    ax.plot(found[name], "C1X", label="differentiated twice")
    ax.set(title=name, xlabel="with respect to number", xticks=range(4))
axes[0].legend(fontsize="small")
plt.show()

# %%
# The fix is ``plain`` in place of ``stopped``. Why: the gradient that would pass through the mean
# is −2/n Σ (x − μ). It is 0, so that nothing is lost when it is stopped; but its own derivative is
# not 0, and that is lost as well. A comment that ``stop_gradient`` has no effect came with
# `tensorflow#19609 <https://github.com/tensorflow/tensorflow/pull/19609>`_.
#
# Conclusion
# ----------

for name in names:
    print(f"{name}: {found[name].round(3)}, and by differences {wanted[name].round(3)}")
off = {name: np.abs(found[name] - wanted[name]).max() for name in names}
shows = bool(off["tf.nn.moments"] > 0.01)
upstream.defect(
    "second_derivative", shows, seen_on={"tensorflow": "2.21.0", "keras": "3.15.1"}, fixed_in=None
)
right = [0.375, -0.125, -0.125, -0.125]
assert np.allclose(wanted["tf.nn.moments"], right, atol=1e-6), "differences are the closed form"
assert np.allclose(found["plain operations"], right, atol=1e-9), "plain operations are right"
if shows:
    assert np.allclose(found["tf.nn.moments"], [0.5, 0, 0, 0], atol=1e-9), "as if μ were constant"
    assert off["keras BatchNormalization"] > 0.5, "the layer inherits it"
    assert round(found["keras BatchNormalization"][0], 2) == -1.64
    assert round(wanted["keras BatchNormalization"][0], 2) == -0.84
