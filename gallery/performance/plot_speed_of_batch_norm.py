"""
What does a training step of batch norm cost, against Keras and against a copy?
===============================================================================

A training step of ``bnref.BatchNorm`` takes :claim:`0.7 <images>` of the time of Keras's
``BatchNormalization`` on images and :claim:`0.7 <rows>` on rows, and gives the same numbers. What
it saves is in the backward pass: the gradient is written down in closed form instead of being
traced through the formula, and one kernel gives both sums that it needs. Its aim is 0.75.

Times are medians of interleaved runs in this process. They belong to the machine named at the foot,
so the bounds of the ratios are wide. All implementations must agree.
"""

# sphinx_gallery_parallel = False

import functools

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref_gallery import timing
from bnref_gallery.claims import claim

SHAPES = [(64, 32, 32, 64), (4096, 512)]


def training_step(call, gamma, beta):
    """Forward and backward pass of ``call`` alone, compiled once."""

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x, gamma, beta)
        return y, *tape.gradient(y, [x, gamma, beta], output_gradients=dy)

    return step


EPSILON = 1e-3


def as_the_formula(x, gamma, beta):
    """Autodiff through the definition."""
    axes = list(range(len(x.shape) - 1))
    mean = tf.reduce_mean(x, axes)
    variance = tf.reduce_mean(tf.square(x - mean), axes)
    return gamma * (x - mean) / tf.sqrt(variance + EPSILON) + beta


def of_tensorflow(x, gamma, beta):
    """``tf.nn.moments`` and ``tf.nn.batch_normalization``."""
    mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)


def fused(x, gamma, beta):
    """One kernel each way; its gradient sums over this replica's batch and nothing else."""
    image = x if len(x.shape) == 4 else x[:, None, None, :]
    y, *_ = tf.compat.v1.nn.fused_batch_norm(image, gamma, beta, epsilon=EPSILON)
    return tf.reshape(y, tf.shape(x))


def candidates(shape):
    """A compiled training step for each implementation, and the sum of two arrays."""
    steps = {}
    for layer in (
        keras.layers.BatchNormalization(epsilon=EPSILON),
        bnref.BatchNorm(epsilon=EPSILON),
    ):
        layer.build(shape)
        name = "Keras" if "Normalization" in type(layer).__name__ else "bnref"
        call = functools.partial(lambda x, gamma, beta, layer: layer(x, training=True), layer=layer)
        steps[f"{name}'s {type(layer).__name__}"] = training_step(
            call, layer.gamma.value, layer.beta.value
        )
    gamma, beta = tf.Variable(tf.ones(shape[-1])), tf.Variable(tf.zeros(shape[-1]))
    steps["tf.nn.moments and its kin"] = training_step(of_tensorflow, gamma, beta)
    steps["the formula, autodiff"] = training_step(as_the_formula, gamma, beta)
    steps["fused_batch_norm"] = training_step(fused, gamma, beta)
    return {**steps, "copy: x + dy": tf.function(lambda x, dy: (x + dy,))}


random = np.random.default_rng(0)
fig, axes = plt.subplots(2, 1, figsize=(6.2, 5), layout="constrained")
disagreement, of_keras = 0.0, {}
for ax, shape in zip(axes, SHAPES, strict=True):
    x, dy = (tf.constant(random.standard_normal(shape).astype("float32")) for _ in range(2))
    steps = candidates(shape)
    reference, *others = [step(x, dy) for name, step in steps.items() if "copy" not in name]
    for result in others:
        for ours, theirs in zip(result, reference, strict=True):
            error = np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))
            disagreement = max(disagreement, float(error))
    medians = timing.interleaved_medians(steps, x, dy)
    print(f"\nfloat32 {shape}: milliseconds, and the ratio to Keras")
    ratios = {name: seconds / medians[next(iter(steps))] for name, seconds in medians.items()}
    for name, seconds in medians.items():
        print(f"  {name:28} {1e3 * seconds:6.2f}   {ratios[name]:.2f}")
    of_keras[shape] = ratios["bnref's BatchNorm"]
    colours = ["C0" if "bnref" in name else "#999999" for name in ratios]
    ax.barh(list(ratios), ratios.values(), color=colours)
    ax.axvline(0.75, color="C1", ls=":", label="aim")
    ax.invert_yaxis()
    ax.set(title=f"Time of a training step, {shape}")
    ax.set(xlabel="time, Keras's layer = 1", ylabel="implementation")
axes[0].legend(loc="lower right")
plt.show()

# %%
# A second derivative costs more, and only where it is asked for: a gradient penalty, for instance,
# differentiates the gradient again. The layer then takes a second closed form, by plain operations.
# Keras's layer is shown for its time; its result is :doc:`wrong
# </gallery/pitfalls/plot_second_derivatives>`.


def second_step(call, gamma, beta):
    """The gradient of the squared gradient, compiled once."""

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = call(x, gamma, beta)
            slope = inner.gradient(y, x, output_gradients=dy)
            penalty = tf.reduce_sum(slope**2)
        return (outer.gradient(penalty, x),)

    return step


shape = SHAPES[1]
x, dy = (tf.constant(random.standard_normal(shape).astype("float32")) for _ in range(2))
orders = {}
for layer in (keras.layers.BatchNormalization(epsilon=EPSILON), bnref.BatchNorm(epsilon=EPSILON)):
    layer.build(shape)
    call = functools.partial(lambda x, gamma, beta, layer: layer(x, training=True), layer=layer)
    name = "Keras" if "Normalization" in type(layer).__name__ else "bnref"
    orders[f"{name}, first"] = training_step(call, layer.gamma.value, layer.beta.value)
    orders[f"{name}, second"] = second_step(call, layer.gamma.value, layer.beta.value)
gamma, beta = tf.ones(shape[-1]), tf.zeros(shape[-1])
orders["the formula, second"] = second_step(as_the_formula, gamma, beta)
medians = timing.interleaved_medians(orders, x, dy)
print(f"float32 {shape}: milliseconds, and the ratio to Keras's first derivative")
for name, seconds in medians.items():
    print(f"  {name:20} {1e3 * seconds:6.2f}   {seconds / medians['Keras, first']:.2f}")
(second,), (by_formula,) = (
    orders[name](x, dy) for name in ("bnref, second", "the formula, second")
)
second_disagreement = float(np.max(np.abs(second - by_formula)) / np.max(np.abs(by_formula)))

# %%
# Proof
# -----
# The ratios, and how far the implementations are apart, as a share of the largest value.

for name, shape in zip(("images", "rows"), SHAPES, strict=True):
    claim(name, of_keras[shape], f"a step over one of Keras's layer, {shape}", above=0.1, below=2)
print(f"largest difference between two implementations: {disagreement:.1e} of the largest value")
assert disagreement < 1e-4, "all implementations give the same outputs and gradients"
assert second_disagreement < 1e-3, "the second derivative is that of the formula"
