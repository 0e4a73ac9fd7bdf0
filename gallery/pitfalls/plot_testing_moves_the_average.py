"""
Testing moves the average: an update outside the branch runs at inference too
=============================================================================

Method 3 of the post "two towers" creates the update of its moving average outside the branch for
training, so the update runs at inference too: three test batches of mean 500 take the average from
70 to :claim:`446 <after_tests>`. A prediction then depends on the tests before it. A network
classifies :claim:`82 % <one_by_one>` of the digits correctly if they come one by one, and
:claim:`23 % <sorted>` if the same digits come sorted by class. Method 1 has the same fault.

.. symptom:: statistics change when they should not
   :cause: TensorFlow 1: the update stands outside the branch for training
   :check: evaluate twice: is the second result the same?
   :likelihood: often
   :question: 2
"""

# %%
# Check
# -----
# Read the population, call the model at inference, and read it again: nothing may have changed. A
# Keras layer of your own can be as careless: ``doctor.examine(model, data,
# only=["moves_at_inference"])`` finds it.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import doctor, tf1
from bnref_gallery import datasets, scale, tower_networks
from bnref_gallery.claims import claim

v1 = tf.compat.v1
placement = tf1.shared_memory(1)

# %%
# Fix
# ---
# Create the update within the function of the branch. Today: call the layer,
# :class:`bnref.layers.BatchNorm` or Keras's, with ``training=False``.
#
# Wrong
# ^^^^^


def updated_outside(average, batch_mean, training):
    update = v1.assign(average, 0.9 * average + 0.1 * batch_mean)

    def from_batch():
        with tf.control_dependencies([update]):  # named here, and created before
            return tf.identity(batch_mean)

    return v1.cond(training, from_batch, lambda: average.read_value())


# %%
# Right
# ^^^^^


def updated_inside(average, batch_mean, training):
    def from_batch():
        update = v1.assign(average, 0.9 * average + 0.1 * batch_mean)
        with tf.control_dependencies([update]):
            return tf.identity(batch_mean)

    return v1.cond(training, from_batch, lambda: average.read_value())


# %%
# Wrong, a Keras layer of your own
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^


class MovesAlways(keras.layers.BatchNormalization):
    def call(self, inputs, training=None):
        y = super().call(inputs, training=training)
        new = 0.9 * self.moving_mean + 0.1 * tf.reduce_mean(inputs, 0)
        self.moving_mean.assign(new)
        return y


# %%
# Right, a Keras layer of your own
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^


class MovesInTraining(keras.layers.BatchNormalization):
    def call(self, inputs, training=None):
        y = super().call(inputs, training=training)
        if training:
            new = 0.9 * self.moving_mean + 0.1 * tf.reduce_mean(inputs, 0)
            self.moving_mean.assign(new)
        return y


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how): what is seen at inference is remembered too, and the
# population is no longer the training data's. ``tf.cond`` runs conditionally only what is *created*
# within the function of a branch. What was created before, and is merely named there as a control
# dependency, runs in every call. The whole post: :doc:`/gallery/questions/plot_two_towers`.
#
# Experiment
# ----------
# The methods get ten batches of mean 70 in training, then three of mean 500 at inference.

NORMS = {f"{n} as posted": norm for n, norm in tf1.METHODS.items()}
NORMS["3 repaired"] = partial(tf1.unconditional_average_norm, repaired=True)
random = np.random.default_rng(0)
batches = [random.normal(mean, 5, (64, 1)) for mean in [70] * 10 + [500] * 3]


def average_after_each_call(norm):
    after = []
    with tf1.tensorflow_1(), tf1.session(placement) as session:
        x, training = v1.placeholder(tf.float32, (None, 1)), v1.placeholder(tf.bool, ())
        fetched = norm(x, training), v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        average = [each for each in v1.global_variables() if "mean" in each.op.name][-1]
        session.run(v1.global_variables_initializer())
        for call, batch in enumerate(batches):
            session.run(fetched, {x: batch, training: call < 10})
            after.append(session.run(average)[0])
    return after


traces = {name: average_after_each_call(norm) for name, norm in NORMS.items()}

# %%
# What it costs: a network takes three tests of the same 1,000 digits or of 400 of them.

data = datasets.load("mnist").take(train=4000, test=1000)
shuffled, few = np.arange(1000), np.arange(400)
by_class = few[np.argsort(data.y_test[few])]
TESTS = {"batches of 50": (shuffled, 50), "one by one": (few, 1), "sorted": (by_class, 1)}


def accuracies(norm, seed):
    def network(x, training):
        x = tf.matmul(tf.reshape(x, (-1, 784)), v1.get_variable("hidden", (784, 64)))
        return tf.matmul(tf.nn.relu(norm(x, training)), v1.get_variable("logits", (64, 10)))

    options = {"placement": placement, "optimizer": v1.train.GradientDescentOptimizer(0.1)}
    with tf1.tensorflow_1(seed=seed), tf1.session(placement) as session:
        classifier = tower_networks.Classifier(network, image_shape=(28, 28, 1), **options)
        session.run(v1.global_variables_initializer())
        for i in np.random.default_rng(seed).choice(4000, (100, 64)):
            classifier.train(session, data.x_train[i], data.y_train[i])
        x, y = data.x_test, data.y_test
        return [classifier.accuracy(session, x[i], y[i], batch_size=n) for i, n in TESTS.values()]


seeds = range(scale.at_scale(quick=3, full=10))
posted = np.array([accuracies(NORMS["3 as posted"], seed) for seed in seeds])
repaired = np.array([accuracies(NORMS["3 repaired"], seed) for seed in seeds])

# %%

fig, (top, bottom) = plt.subplots(2, figsize=(6.2, 5), layout="constrained")
for (name, trace), style in zip(traces.items(), ("^-", "s-", "v--", "D--", "o:"), strict=True):
    top.plot(range(1, 14), trace, style, label=name)
top.axvspan(10.5, 13.5, color="#eeeeee", zorder=0)
top.set(title="Moving average (grey: at inference)", xlabel="call", ylabel="average")
top.legend()
for scores, style, name in ((posted, "XC2", "3 as posted"), (repaired, "oC4", "3 repaired")):
    bottom.plot(scores.T, list(TESTS), style, ms=8, label=[name] + [""] * (len(seeds) - 1))
bottom.set(title="The same digits, three tests", xlabel="accuracy", xlim=(0, 1), ylim=(2.3, -0.3))
bottom.legend(loc="upper left")
plt.show()

# %%
# Proof
# -----
# Which methods move at inference, accuracies, the two functions of the fix, and the doctor.

for name, trace in traces.items():
    print(f"{name}: average after training {trace[9]:5.1f}, after three tests {trace[-1]:5.1f}")
for name in ("1 as posted", "3 as posted"):  # method 1 can be one call late: 392 in place of 446
    assert traces[name][-1] > 380, f"{name}: testing moves the average"
for name in ("2 as posted", "4 as posted", "3 repaired"):
    assert traces[name][-1] == traces[name][9], f"{name}: testing moves nothing"
claim("after_tests", traces["3 as posted"][-1], "average after three tests", above=444, below=448)
claim("one_by_one", posted[:, 1], "accuracy one by one, as posted", above=0.5, below=0.95)
claim("sorted", posted[:, 2], "accuracy sorted, as posted", above=0.05, below=0.6)
claim("lost", posted[:, 1] - posted[:, 2], "lost by sorting, as posted", above=0.4, of="mean")
few_apart = np.abs(repaired[:, 1] - repaired[:, 2])
claim("repaired", repaired[:, 2], "accuracy sorted, repaired", above=0.75)
assert few_apart.max() == 0, "repaired: the order does not matter"


def updates_at_inference(updated):
    with tf1.tensorflow_1(), tf1.session(placement) as session:
        average, training = v1.Variable(70.0), v1.placeholder(tf.bool, ())
        used = updated(average, tf.constant(500.0), training)
        session.run(v1.global_variables_initializer())
        for _ in range(3):
            session.run(used, {training: False})
        return float(session.run(average))


assert updates_at_inference(updated_outside) > 150, "outside the branch, three tests move it"
assert updates_at_inference(updated_inside) == 70, "inside the branch they do not"


def found(layer):
    model = keras.Sequential([keras.Input((4,)), layer])
    some = random.normal(size=(128, 4)).astype("float32")
    report = doctor.examine(model, some, only=["moves_at_inference"])
    return [finding.evidence for finding in report.findings]


evidence = found(MovesAlways())
print("the doctor, of the wrong layer:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not found(MovesInTraining()), "and is silent on the right one"
