"""
What a step of the training loop costs on one device, against a bare step
=========================================================================

A step of :mod:`bnref.training` takes :claim:`1.00 <perceptron>` times as long as a ``tf.function``
with nothing around it for a small perceptron, and :claim:`1.00 <convolutions>` times for a small
convolutional network: the code for several replicas is gone when the step is traced for one device.
After every step the losses of both are equal.

Against Keras ``fit``, on two devices: :doc:`plot_speed_of_the_training_loop`.
"""

# sphinx_gallery_parallel = False

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import training
from bnref_gallery import datasets, models, scale, timing
from bnref_gallery.claims import claim

# %%
# Two networks. A step of the smaller one is short, so that anything added shows.


def perceptron():
    return models.perceptron(bnref.BatchNorm, inputs=(32, 32, 3), units=(100, 100))


def convolutions():
    return models.two_convolutions(bnref.BatchNorm, image_shape=(32, 32, 3), filters=(16, 32))


def bare_step(model):
    """What one writes for one device and no more."""
    optimizer, weights = keras.optimizers.SGD(0.01), model.trainable_variables
    optimizer.build(weights)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        return loss

    return step


def loop_step(model):
    return training.Run(model, keras.optimizers.SGD(0.01)).step


data = datasets.load("cifar10").take(train=128, test=1)
batch, seconds, losses = (tf.constant(data.x_train), tf.constant(data.y_train)), {}, {}
rounds = {perceptron: scale.at_scale(quick=201, full=501), convolutions: 41}
for network in (perceptron, convolutions):
    steps = {}
    for name, make in {"bare": bare_step, "loop": loop_step}.items():
        keras.utils.set_random_seed(0)
        steps[name] = make(network())
    name = network.__name__
    losses[name] = np.array([[float(step(*batch)) for step in steps.values()] for _ in range(5)])
    seconds[name] = timing.interleaved_medians(steps, *batch, rounds=rounds[network])

# %%

fig, ax = plt.subplots(figsize=(6.2, 2.2), layout="constrained")
for place, each in enumerate(seconds.values()):
    for (arm, value), offset, color in zip(each.items(), (-0.2, 0.2), ("C4", "C0"), strict=True):
        ax.barh(place + offset, 1000 * value, 0.36, color=color)
        ax.annotate(f" {arm} {1000 * value:.2f} ms", (1000 * value, place + offset), va="center")
longest = max(max(each.values()) for each in seconds.values())
ax.set(yticks=range(2), yticklabels=seconds, xlim=(0, 1400 * longest), ylim=(1.6, -0.6))
ax.set_title("Milliseconds a step, one device")
ax.set(xlabel="milliseconds", ylabel="network")
plt.show()

# %%
# Proof
# -----
# The bounds are wide, because the machine may have other work.

for name, each in seconds.items():
    ratio = each["loop"] / each["bare"]
    claim(name, ratio, f"a step of the loop over a bare step, {name}", above=0.5, below=2)
    bare, loop = losses[name].T
    assert np.allclose(bare, loop, rtol=1e-4), f"{name}: the same losses after every step"
    assert bare[-1] < bare[0], f"{name}: both learn"
