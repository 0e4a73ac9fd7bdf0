"""
How do I write batch norm for two GPUs today?
=============================================

With a layer, and a strategy around the model: five lines. Each replica then normalizes by its own
batch, in each of 40 steps, to :claim:`0.00001 <own_batch>`, and a network learns as well on two
replicas as on one: :claim:`86 % <one>` and :claim:`86 % <two>` of test digits. A hand-written loop
over the devices still goes wrong, in another way than in 2017: one moving average gets two updates
in each step, so that with momentum 0.9 the old value weighs :claim:`0.81 <by_hand>` afterwards.

.. symptom:: worse on two GPUs
   :cause: one layer is called by hand on each device, and its moving average is updated by each
   :check: after one step, what does the average's old value weigh: ρ, or ρ²?
   :likelihood: seldom
   :question: 2
"""

# %%
# Check
# -----
# Take one step on batches of zeros. A moving mean that was 1 is then ρ, the momentum; where R
# devices have updated it, it is ρ to the power of R. ``step(xs)`` gives one batch to each device.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import devices, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def weight_of_the_old(norm, step):
    """What is left of a moving mean of 1 after one step; it is put back."""
    before = norm.moving_mean.numpy()
    norm.moving_mean.assign(np.ones_like(before))
    step([np.zeros((8, len(before)), "float32") for _ in range(2)])
    left = float(norm.moving_mean.numpy()[0])
    norm.moving_mean.assign(before)
    return left


# %%
# Fix
# ---
# Make the model in the strategy's scope, and leave the devices to the strategy: to ``fit`` of
# Keras, to ``strategy.run``, or to :func:`bnref.training.train`.
#
# Wrong
# ^^^^^


def on_two_devices_by_hand(norm, names):
    def step(xs):
        outputs = []
        for name, x in zip(names, xs, strict=True):
            with tf.device(name):
                outputs.append(norm(x, training=True))
        return outputs

    return step


# %%
# Right
# ^^^^^


def model_on_two_devices(network, names):
    strategy = tf.distribute.MirroredStrategy(names)
    with strategy.scope():
        model = network()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model  # model.fit(x, y, batch_size=128) gives 64 to each of two replicas


# %%
# Why
# ---
# The post "two towers" went wrong at question 3 (used when): its first method normalized by
# *variables* that had the last step's statistics (:doc:`plot_two_towers`). A layer normalizes by
# tensors, and a read of a variable waits for the assignments before it, so that this is gone.
#
# By hand it goes wrong at question 2 (remembered how): the layer has one moving average, and each
# device updates it, P ← ρP + (1 − ρ)B. Under a strategy each replica has an average of its own, and
# what is read and saved is the first's. Where replicas see different data, that is too little:
# :func:`bnref.population.recompute` takes those of all. Question 1 (whose statistics) has the same
# answer as in 2017, each replica's own images; :class:`bnref.layers.SyncBatchNorm` takes them all.
#
# Experiment
# ----------
# One layer, one channel, 40 steps. The first replica is given values of mean 10 *t* at step *t*,
# the second 100 more. By which mean did each normalize?

REPLICAS = devices.names(2)
strategy = tf.distribute.MirroredStrategy(REPLICAS)
with strategy.scope():
    layer = bnref.BatchNorm(momentum=0.9, epsilon=1e-5)
    layer.build((None, 1))
normalized = training.on_replicas(strategy, partial(layer, training=True))


def share(step, replica):
    random = np.random.default_rng([step, replica])
    return random.normal(10 * step + 100 * replica, 1 + step / 10, (2**12, 1)).astype("float32")


batch, used = np.zeros((2, 40, 2))
for step in range(1, 41):
    xs = [share(step, replica) for replica in (0, 1)]
    for replica, (x, y) in enumerate(zip(xs, normalized(xs), strict=True)):
        y = np.asarray(y, "float64")
        batch[step - 1, replica] = x.mean(dtype="float64")
        used[step - 1, replica] = x.mean(dtype="float64") - y.mean() * x.std() / y.std()
error = np.abs(used - batch) / (1 + np.arange(1, 41)[:, None] / 10)  # in deviations

# %%
# One step by hand, and one by the strategy.

by_itself = bnref.BatchNorm(momentum=0.9)
by_itself.build((None, 1))
by_hand = weight_of_the_old(by_itself, on_two_devices_by_hand(by_itself, REPLICAS))
by_strategy = weight_of_the_old(layer, normalized)

# %%
# A network on one replica and on two, with ``fit`` of Keras: 3,000 digits of 14 × 14 pixels, two
# epochs in batches of 128.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
norm = partial(keras.layers.BatchNormalization, momentum=0.9)
network = partial(models.perceptron, norm, inputs=(14, 14, 1))


def fitted(replicas):
    """Accuracy in training after each epoch, and of the test, a row a seed."""
    model, rows = model_on_two_devices(network, REPLICAS[:replicas]), []
    run = training.Run(model, model.optimizer)  # to test by the population that is saved
    for seed in range(scale.at_scale(quick=3, full=10)):  # compiled once, other weights
        restart(model, model.optimizer, network, seed=seed)
        history = model.fit(x_train, data.y_train, batch_size=128, epochs=2, verbose=0)
        tested = run.evaluate(x_test, data.y_test)[1]
        rows.append([*history.history["accuracy"], tested])
    return np.array(rows)


curves = {"one replica": fitted(1), "two replicas": fitted(2)}

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
for replica, name in enumerate(["first", "second"]):
    colour, steps = f"C{replica}", range(1, 9)
    left.plot(steps, batch[:8, replica], "o-", color=colour, mfc="none", ms=10, lw=1)
    left.plot(steps, used[:8, replica], "x", color=colour, mew=2, label=f"{name} replica")
left.set(xlabel="step", ylabel="mean", title="Of the batch ○, used ×")
left.legend()
for (name, rows), colour in zip(curves.items(), ("C0", "C1"), strict=True):
    right.plot([1, 2], rows[:, :2].T, "o-", color=colour, lw=1)
    right.plot([], [], "o-", color=colour, label=name)
right.set(title="Learning", xlabel="epoch", ylabel="accuracy in training", xticks=[1, 2])
right.legend()
plt.show()

# %%
# Proof
# -----
# What was used, what the averages remember, and what was learnt.

claim("own_batch", error.max(), "mean used less the own batch's, in deviations", below=1e-4)
claim("by_hand", by_hand, "weight of the old average after a step by hand", above=0.8, below=0.82)
assert abs(by_strategy - 0.9) < 1e-6, "under the strategy one update a step: the check is silent"
for name, rows in curves.items():
    print(f"{name:13} accuracy in training {rows[:, 1].round(3)}, test {rows[:, 2].round(3)}")
one, two = (rows[:, 2] for rows in curves.values())
claim("one", one, "test accuracy, one replica", above=0.7)
claim("two", two, "test accuracy, two replicas", above=0.7)
assert abs(one.mean() - two.mean()) < 0.04, "two replicas learn as one does"
