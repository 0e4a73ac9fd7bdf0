"""
Testing moves the average: an update outside the branch runs at inference too
=============================================================================

Three test batches of mean 500 take the moving average of method 3 of the post "two towers" from
70 to **446**, as if they were training. So a prediction depends on the tests before it: a network
that reads digits one by one loses **more than 40 points** of accuracy if the same digits come
sorted by class. Method 1 has the same fault; methods 2 and 4 have not, nor has method 3 repaired.

The symptom: the test accuracy changes with the order or the batch size of the test. The question
answered wrongly is the second, *remembered how*: what is seen at inference is remembered too. The
population is no longer the training data's. The post: :doc:`/gallery/questions/plot_two_towers`.

.. symptom:: statistics change when they should not
   :cause: TensorFlow 1: the update stands outside the branch for training
   :check: evaluate twice: is the second result the same?
   :likelihood: often
   :question: 2
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import doctor, tf1
from bnref_gallery import datasets, scale, tower_networks

v1 = tf.compat.v1
placement = tf1.shared_memory(1)

# %%
# ``tf.cond`` runs conditionally only what is *created* within the function of a branch. What was
# created before, and is merely named there as a control dependency, runs in every call.

with tf1.tensorflow_1(), tf1.session(placement) as session:
    wrong, right, training = v1.Variable(0), v1.Variable(0), v1.placeholder(tf.bool, ())
    outside = v1.assign_add(wrong, 1)  # wrong: created outside the branch, only named in it

    def from_batch():
        inside = v1.assign_add(right, 1)  # right
        with tf.control_dependencies([outside, inside]):
            return tf.constant("batch")

    used = v1.cond(training, from_batch, lambda: tf.constant("population"))
    session.run(v1.global_variables_initializer())
    for _ in range(10):
        session.run(used, {training: False})
    updates_at_inference = session.run([wrong, right])

# %%
# The methods get ten batches of mean 70 in training, then three of mean 500 at inference.

NORMS = {f"{n} as posted": norm for n, norm in tf1.METHODS.items()}
NORMS["3 repaired"] = partial(tf1.unconditional_average_norm, repaired=True)
random = np.random.default_rng(0)
batches = [random.normal(mean, 5, (64, 1)) for mean in [70] * 10 + [500] * 3]


def average_after_each_call(norm):
    with tf1.tensorflow_1(), tf1.session(placement) as session:
        x, training = v1.placeholder(tf.float32, (None, 1)), v1.placeholder(tf.bool, ())
        fetched = norm(x, training), v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        average = [each for each in v1.global_variables() if "mean" in each.op.name][-1]
        session.run(v1.global_variables_initializer())
        feeds = ({x: batch, training: call < 10} for call, batch in enumerate(batches))
        return [(session.run(fetched, feed), session.run(average)[0])[1] for feed in feeds]


traces = {name: average_after_each_call(norm) for name, norm in NORMS.items()}

# %%
# What it costs: a network takes three tests of the same 400 digits, the third one by one as well.

data = datasets.load("mnist").take(train=4000, test=400)
shuffled, by_class = np.arange(400), np.argsort(data.y_test)
TESTS = {"batches of 50": (shuffled, 50), "one by one": (shuffled, 1), "sorted": (by_class, 1)}


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

fig, (top, bottom) = plt.subplots(2, figsize=(6.2, 5), layout="constrained")
for (name, trace), style in zip(traces.items(), ("^-", "s-", "v--", "D--", "o:"), strict=True):
    top.plot(range(1, 14), trace, style, label=name)
top.axvspan(10.5, 13.5, color="#eeeeee", zorder=0)
top.set(title="Moving average (grey: at inference)", xlabel="call")
top.legend()
for scores, style, name in ((posted, "XC2", "3 as posted"), (repaired, "oC4", "3 repaired")):
    bottom.plot(scores.T, list(TESTS), style, ms=8, label=[name] + [""] * (len(seeds) - 1))
bottom.set(title="The same digits, three tests", xlabel="accuracy", xlim=(0, 1), ylim=(2.3, -0.3))
bottom.legend(loc="upper left")
plt.show()

# %%
# To check your own model, read its population, call it at inference, and read it again: nothing
# may have changed. The fix: create the update in the branch, as ``inside`` above. Today: call the
# layer, :class:`bnref.layers.BatchNorm` or Keras's, with ``training=False``. A layer of your own in
# Keras can be as careless: ``bnref.doctor.examine(model, data, only=["moves_at_inference"])``.
#
# Conclusion
# ----------

print("updates in ten calls at inference, created outside and inside:", *updates_at_inference)
for name, trace in traces.items():
    print(f"{name}: average after training {trace[9]:5.1f}, after three tests {trace[-1]:5.1f}")
    # Method 1 can be one call late: 392 instead of 446.
    assert trace[-1] > 380 if name[0] in "13" and "posted" in name else trace[-1] == trace[9]
print("accuracy, 3 as posted and repaired:", posted.mean(0).round(3), repaired.mean(0).round(3))
assert updates_at_inference == [10, 0] and abs(traces["3 as posted"][-1] - 446.25) < 2
assert np.ptp(repaired, axis=1).max() < 0.01 and (posted[:, 1] - posted[:, 2]).mean() > 0.4


class Own(keras.layers.BatchNormalization):
    """Moves its mean by itself: in every call, or, as is right, in training only."""

    def __init__(self, in_every_call):
        super().__init__()
        self.in_every_call = in_every_call

    def call(self, inputs, training=None):
        y = super().call(inputs, training=training)
        if self.in_every_call or training:
            self.moving_mean.assign(0.9 * self.moving_mean + 0.1 * tf.reduce_mean(inputs, 0))
        return y


def found(in_every_call):
    model = keras.Sequential([keras.Input((4,)), Own(in_every_call)])
    some = random.normal(size=(128, 4)).astype("float32")
    report = doctor.examine(model, some, only=["moves_at_inference"])
    return [finding.evidence for finding in report.findings]


evidence = found(in_every_call=True)
print("the doctor, of the wrong layer:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not found(in_every_call=False), "and is silent on the right one"
