"""
What the training loop costs, against Keras ``fit`` and a bare step
===================================================================

On two devices a step of ``bnref.training`` takes less time than a step of Keras ``fit`` with the
same model under the same strategy (aim: **0.95** of it or less). On one device it takes about as
long as a ``tf.function`` with nothing around it (aim: **1.05** or less). The times of this build are
below.

The global batch goes into one compiled function, and is shared out inside; what the host does is
draw the next batch and start that function.
"""

# sphinx_gallery_parallel = False

import json
import subprocess
import sys
from itertools import islice

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import benchmark, datasets, devices, training

# %%
# The network has two convolutions. All that is timed is a step with its own next batch: for
# ``fit`` one of 20 in an epoch, from one ``on_train_batch_begin`` to the next, its data prepared by
# ``tf.data``; for the loop, drawing the batch and the step. The two take turns, 20 steps each.

BATCH, STEPS = 128, 20


def network(norm):
    layers = [keras.Input((32, 32, 3))]
    for filters in (16, 32):
        convolution = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)
        layers += [convolution, norm(), keras.layers.ReLU(), keras.layers.MaxPool2D()]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])


def made(strategy, norm):
    with strategy.scope():
        return network(norm), keras.optimizers.SGD(0.01)


class Clock(keras.callbacks.Callback):
    """When each step of ``fit`` began."""

    def on_train_batch_begin(self, batch, logs=None):
        self.times = [*(self.times if batch else []), tf.timestamp().numpy()]


def fit_and_loop(norm, data, rounds):
    """Seconds of each step: of ``fit``, and of the loop."""
    strategy, clock = training.strategy(2), Clock()
    model, optimizer = made(strategy, norm)
    with strategy.scope():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, jit_compile=False)
    source = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train)).repeat()
    source = source.shuffle(1000, seed=0).batch(BATCH, drop_remainder=True)
    step = training.compiled_step(*made(strategy, norm))
    batches = training.shuffled_batches(data.x_train, data.y_train, batch_size=BATCH, seed=0)
    seconds = {"fit": [], "loop": []}
    for number in range(rounds + 1):
        model.fit(source, steps_per_epoch=STEPS, verbose=0, callbacks=[clock])
        loop = [tf.timestamp().numpy()]
        for batch in islice(batches, STEPS):
            step.on_replicas(*batch)
            loop.append(tf.timestamp().numpy())
        if number:  # after a first round in which all is traced
            seconds["fit"] += np.diff(clock.times).tolist()
            seconds["loop"] += np.diff(loop).tolist()
    return {name: float(np.median(each)) for name, each in seconds.items()}


def bare_and_loop(data, rounds):
    """Median seconds of a ``tf.function`` with nothing around it, and of the loop's step."""
    model, optimizer = made(training.strategy(1), bnref.BatchNorm)
    optimizer.build(model.trainable_variables)
    weights = model.trainable_variables

    @tf.function
    def bare(x, y):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True))
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        return loss

    arms = {
        "bare": bare,
        "loop": training.compiled_step(*made(training.strategy(1), bnref.BatchNorm)),
    }
    batch = tf.constant(data.x_train[:BATCH]), tf.constant(data.y_train[:BATCH])
    return benchmark.interleaved_medians(arms, *batch, rounds=rounds)


def measured(rounds):
    devices.configure()
    data = datasets.load("cifar10").take(train=1280, test=1)
    keras_norm = keras.layers.BatchNormalization
    return {
        "one device": bare_and_loop(data, STEPS * rounds),
        "two devices": fit_and_loop(bnref.BatchNorm, data, rounds),
        "two devices, Keras's layer": fit_and_loop(keras_norm, data, rounds),
    }


# %%
# It is measured in a process of its own: under ``MirroredStrategy`` on a busy processor, ``fit``
# ends in about one of 25 runs by a segmentation fault. Such a run is repeated, and counted here.

if sys.argv[1:] == ["measure"]:
    print(json.dumps(measured(rounds=devices.at_scale(quick=6, full=20))))
    sys.exit()
command, crashes = [sys.executable, measured.__code__.co_filename, "measure"], 0
while (done := subprocess.run(command, capture_output=True, text=True)).returncode < 0:
    crashes += 1
    assert crashes < 4, done.stderr
assert done.returncode == 0, done.stderr
seconds = json.loads(done.stdout.splitlines()[-1])

fig, ax = plt.subplots(figsize=(6.2, 2.6), layout="constrained")
for place, (name, each) in enumerate(seconds.items()):
    for (arm, value), offset, color in zip(each.items(), (-0.2, 0.2), ("C4", "C0"), strict=True):
        ax.barh(place + offset, 1000 * value, 0.36, color=color)
        ax.annotate(f" {arm} {1000 * value:.1f} ms", (1000 * value, place + offset), va="center")
slowest = max(max(each.values()) for each in seconds.values())
ax.set(yticks=range(3), yticklabels=[name.replace(", ", ",\n") for name in seconds])
ax.set(title="Milliseconds a step", xlim=(0, 1400 * slowest), ylim=(2.6, -0.6))
plt.show()

# %%
# Logical devices make nothing faster: both share the processor. What they show is what the loop
# adds. :doc:`plot_synchronizing_one_to_eight_replicas` has the cost of the layer.
#
# Conclusion
# ----------

print(f"Keras fit crashed {crashes} times")
for name, each in seconds.items():
    other = next(iter(each))
    print(f"{name}: loop / {other} = {each['loop'] / each[other]:.2f}")
assert all(value > 0 for each in seconds.values() for value in each.values())
