"""
Testing moves the average: an update outside the branch runs at inference too
=============================================================================

In TensorFlow 1 the update of a moving average may be created outside the branch for training. Then
it runs at inference too: three test batches of mean 500 take such an average from 70 to
:claim:`446 <after_tests>`. A prediction depends on the tests before it. A network that is tested
with one digit at a time classifies :claim:`87 % <one_by_one>` correctly; if the same digits come
sorted by class, :claim:`30 % <sorted>`. With the update inside the branch it is
:claim:`89 % <repaired>` in any order.

.. symptom:: statistics change when they should not
   :cause: TensorFlow 1: the update stands outside the branch for training
   :check: evaluate twice: is the second result the same?
   :likelihood: often
   :question: 2
"""

# %%
# Check
# -----
# Run the model at inference, with ``feed`` for a test batch, and compare the variables before and
# after: a sound model changes none. In Keras ``doctor.examine(model, data,
# only=["moves_at_inference"])`` does the same.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import doctor, tf1
from bnref_gallery import datasets, scale, tower_networks
from bnref_gallery.claims import claim

v1 = tf.compat.v1

# %%


def moved_at_inference(session, fetches, feed):
    """The names of the variables that are changed by one run."""
    variables = v1.global_variables()
    before = session.run(variables)
    session.run(fetches, feed)
    pairs = zip(before, session.run(variables), strict=True)
    unequal = [not np.array_equal(old, new, equal_nan=True) for old, new in pairs]
    return [each.name for each, moved in zip(variables, unequal, strict=True) if moved]


# %%
# Fix
# ---
# Create the update within the function of the branch; in a Keras layer, ask for ``training``.
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
        mean = tf.reduce_mean(inputs, 0)
        self.moving_mean.assign(0.9 * self.moving_mean + 0.1 * mean)
        return super().call(inputs, training=training)


# %%
# Right, a Keras layer of your own
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^


class MovesInTraining(keras.layers.BatchNormalization):
    def call(self, inputs, training=None):
        if training:
            mean = tf.reduce_mean(inputs, 0)
            self.moving_mean.assign(0.9 * self.moving_mean + 0.1 * mean)
        return super().call(inputs, training=training)


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how): what is seen at inference is remembered too, and the
# population is no longer the training data's. ``tf.cond`` runs conditionally only what is *created*
# within the function of a branch. What was created before, and is merely named there as a control
# dependency, runs in every call.
#
# Met in methods 1 and 3 of the post "two towers" (:doc:`/gallery/questions/plot_two_towers`).
#
# Experiment
# ----------
# The methods get ten batches of mean 70 in training, then three of mean 500 at inference.

placement = tf1.shared_memory(1)
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
# What it costs: a network with the functions of the fix takes three tests of the same 1,000 digits.

data = datasets.load("mnist").take(train=4000, test=1000)
shuffled = np.arange(1000)
by_class = np.argsort(data.y_test)
TESTS = {"batches of 50": (shuffled, 50), "one by one": (shuffled, 1), "sorted": (by_class, 1)}


def norm(updated, x, training):
    means = v1.get_variable("mean", (64,), initializer=v1.zeros_initializer(), trainable=False)
    variances = v1.get_variable("var", (64,), initializer=v1.ones_initializer(), trainable=False)
    moments = tf.nn.moments(x, [0])
    mean = updated(means, moments[0], training)
    variance = updated(variances, moments[1], training)
    return (x - mean) / tf.sqrt(variance + 1e-3)


def network(x, training, updated):
    x = tf.matmul(tf.reshape(x, (-1, 784)), v1.get_variable("hidden", (784, 64)))
    return tf.matmul(tf.nn.relu(norm(updated, x, training)), v1.get_variable("logits", (64, 10)))


# %%


def accuracies(updated):
    """One row a seed, one column a test; and what the check finds."""
    given = partial(network, updated=updated)
    options = {"placement": placement, "optimizer": v1.train.GradientDescentOptimizer(0.1)}
    rows = []
    with tf1.tensorflow_1(seed=0), tf1.session(placement) as session:
        classifier = tower_networks.Classifier(given, image_shape=(28, 28, 1), **options)
        initialize = v1.global_variables_initializer()  # new weights, each time that it runs
        for seed in range(scale.at_scale(quick=3, full=10)):
            session.run(initialize)
            for i in np.random.default_rng(seed).choice(4000, (100, 64)):
                classifier.train(session, data.x_train[i], data.y_train[i])
            for i, size in TESTS.values():
                test = data.x_test[i], data.y_test[i]
                rows.append(classifier.accuracy(session, *test, batch_size=size))
        feed = {classifier.x: data.x_test, classifier.y: data.y_test, classifier.training: False}
        moved = moved_at_inference(session, classifier.hits, feed)
    return np.reshape(rows, (-1, len(TESTS))), moved


outside, moved_outside = accuracies(updated_outside)
inside, moved_inside = accuracies(updated_inside)

# %%

fig, (top, bottom) = plt.subplots(2, figsize=(6.2, 5), layout="constrained")
for (name, trace), style in zip(traces.items(), ("^-", "s-", "v--", "D--", "o:"), strict=True):
    top.plot(range(1, 14), trace, style, label=name)
top.axvspan(10.5, 13.5, color="#eeeeee", zorder=0)
top.set(title="Moving average (grey: at inference)", xlabel="call", ylabel="average")
top.legend()
for scores, style, name in ((outside, "XC2", "outside"), (inside, "oC4", "inside")):
    bottom.plot(scores[0], list(TESTS), style, ms=8, label=f"update {name} the branch")
    bottom.plot(scores[1:].T, list(TESTS), style, ms=8)
bottom.set(title="Same digits, three tests", xlabel="accuracy", ylabel="order", ylim=(2.3, -0.3))
bottom.legend(loc="upper left")
plt.show()

# %%
# Proof
# -----
# Which methods move at inference, the accuracies, the check on both networks, and the doctor.

print("averages after three tests:", {name: trace[-1].round(1) for name, trace in traces.items()})
for name in ("1 as posted", "3 as posted"):  # method 1 can be one call late: 392 in place of 446
    assert traces[name][-1] > 380, f"{name}: testing moves the average"
for name in ("2 as posted", "4 as posted", "3 repaired"):
    assert traces[name][-1] == traces[name][9], f"{name}: testing moves nothing"
claim("after_tests", traces["3 as posted"][-1], "average after three tests", above=444, below=448)
print("by seed, outside and inside:", outside.round(3).tolist(), inside.round(3).tolist())
claim("one_by_one", outside[:, 1], "accuracy one by one, outside", above=0.5, below=0.95)
claim("sorted", outside[:, 2], "accuracy sorted, outside", above=0.05, below=0.6)
claim("lost", outside[:, 1] - outside[:, 2], "lost by sorting, outside", above=0.4, of="mean")
claim("repaired", inside[:, 2], "accuracy sorted, inside", above=0.75)
assert np.ptp(inside, axis=1).max() < 0.01, "inside: neither order nor size of the tests matters"
print("moved at inference, outside and inside:", moved_outside, moved_inside)
assert moved_outside, "the check finds updates outside the branch"
assert not moved_inside, "and is silent on updates inside"


def found(layer):
    model = keras.Sequential([keras.Input((4,)), layer])
    some = random.normal(size=(128, 4)).astype("float32")
    report = doctor.examine(model, some, only=["moves_at_inference"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of the wrong layer:", *found(MovesAlways()))
assert found(MovesAlways()), "the check fires on the wrong model"
assert not found(MovesInTraining()), "and is silent on the right one"
