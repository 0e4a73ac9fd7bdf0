"""
Why are the moving averages never updated unless UPDATE_OPS are tied to the train op?
=====================================================================================

Because in TensorFlow 1 a session runs what it is asked for and what that needs, and the gradients
need the batch's statistics, not the averages. ``tf.layers`` leaves the updates in the collection
``UPDATE_OPS``, **two per layer**; they run only if the train op depends on them. If it does not,
the mean stays 0, and a loss below 1 in training is **above 50** at inference. Copy all of the
recipe, with your own optimizer and loss.

The post of :doc:`alpha and momentum </gallery/questions/plot_alpha_and_momentum>` asks this too.
Question 2, *remembered how*, is answered wrongly: never.

.. symptom:: statistics never change
   :cause: TensorFlow 1: UPDATE_OPS are not tied to the train op, or were read before there were
      layers
   :check: ``session.run(tf.global_variables(".*moving_mean"))`` is the same before and after a
      training step
   :likelihood: usual
   :question: 2

.. symptom:: validation far worse than training
   :cause: TensorFlow 1: the updates of the moving averages are never run
   :check: ``session.run(tf.global_variables(".*moving_mean"))`` after training: all 0?
   :likelihood: often
   :question: 2

.. symptom:: statistics change when they should not
   :cause: TensorFlow 1: the updates are tied to the loss, so evaluating it runs them
   :check: run the loss alone, in training mode: do ``tf.global_variables(".*moving_mean")`` move?
   :likelihood: sometimes
   :question: 2

.. symptom:: statistics never change
   :cause: a Keras layer in a TensorFlow 1 session adds nothing to UPDATE_OPS
   :check: is the layer from ``tf.keras`` or ``keras``, and the training loop a session?
   :likelihood: often
   :question: 2
"""

import warnings
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras.src.legacy_tf_layers.normalization import batch_normalization

from bnref import tf1

v1 = tf.compat.v1
warnings.filterwarnings("ignore", "`tf.layers.batch_normalization` is deprecated")
random = np.random.default_rng(0)
X = random.normal(5, 3, (512, 4)).astype("f4")
BATCHES = random.integers(0, 512, (150, 32))
Y = (X - 5) @ np.array([[1.0], [-1], [0.5], [2]], "f4") / 3
updates = partial(v1.get_collection, v1.GraphKeys.UPDATE_OPS)

# %%
# One batch norm feeds one dense layer. The versions differ in what the train op depends on.


def network(version, x, y, training):
    early = updates()
    library = {"tf.keras 2 layer": tf_keras, "Keras 3 layer": keras}.get(version[:16])
    if library:
        layer = library.layers.BatchNormalization(momentum=0.9)
        hidden = layer(x, training=True)
    else:
        hidden = batch_normalization(x, training=training, momentum=0.9)
    loss = tf.reduce_mean((hidden @ v1.get_variable("weights", (4, 1)) - y) ** 2)
    if version == "tied to the loss":  # wrong: to evaluate the loss moves the averages
        with v1.control_dependencies(updates()):
            loss = tf.identity(loss)
    ties = {"forgotten": [], "read before the layers": early}.get(version, updates())  # early: []
    ties = layer.updates if version.endswith("updates") else ties  # right, for tf.keras 2
    with v1.control_dependencies(ties):
        return loss, v1.train.AdamOptimizer(0.1).minimize(loss)


# %%
# Each trains for 150 batches. Then the loss is evaluated once in training mode on inputs larger by
# 100, which must not move the averages, and at inference; the Keras layers always in training mode.


def outcome(version):
    with tf1.tensorflow_1(resource_variables=True, seed=0), v1.Session() as session:
        x, y = v1.placeholder(tf.float32, (None, 4)), v1.placeholder(tf.float32, (None, 1))
        training = v1.placeholder_with_default(False, ())
        loss, train = network(version, x, y, training)
        tied, means = len(updates()), v1.global_variables(".*moving_mean")
        session.run(v1.global_variables_initializer())
        traced = []
        for i in BATCHES:
            _, value = session.run([train, loss], {x: X[i], y: Y[i], training: True})
            traced.append(session.run(means[0])[0])
        session.run(loss, {x: X + 100, y: Y, training: True})
        moved = abs(session.run(means[0])[0] - traced[-1])
        return tied, np.array(traced), value, session.run(loss, {x: X, y: Y}), moved


VERSIONS = ["forgotten", "read before the layers", "tied to the loss", "tied to the train op"]
VERSIONS += ["tf.keras 2 layer", "Keras 3 layer", "tf.keras 2 layer, updates"]
found = {name: outcome(name) for name in VERSIONS}
fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
styles = ("C1-", "C3--", "C2-", "C0:", "C4-", "k:", "k--")
for name, style, width in zip(VERSIONS, styles, (7, 4, 6, 4, 2, 1, 1), strict=True):
    ax.plot(found[name][1], style, label=name, lw=width, alpha=0.7)
ax.set(title="Moving mean of the first channel (true: 5)", xlabel="training batch")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# The recipe, line by line
# ------------------------
# - ``tf.get_collection(tf.GraphKeys.UPDATE_OPS)``: literally, **after** the last layer is made; it
#   is of the whole graph, so that a second network in it needs ``scope=...``.
# - ``with tf.control_dependencies(...)``: literally, around **your** ``optimizer.minimize(loss)``.
#
# Keras layers in a session add nothing: take ``layer.updates`` of tf.keras 2, or leave sessions. In
# Keras 3 a layer called with ``training=True`` moves its averages itself, without a recipe:

today = keras.layers.BatchNormalization(momentum=0.9)
for batch in BATCHES:
    today(X[batch], training=True)

# %%
# To check: ``session.run(tf.global_variables(".*moving_mean"))`` before and after a training step
# must differ. Others met `means of 0 and variances of 1
# <https://github.com/tensorflow/tensorflow/issues/11965>`__, `the update tied to the loss
# <https://github.com/tensorflow/tensorflow/issues/7577>`__, `Keras layers that add none
# <https://github.com/tensorflow/tensorflow/issues/23873>`__.
#
# Conclusion
# ----------

assert [each[0] for each in found.values()] == [2, 2, 2, 2, 0, 0, 0]
for name, (tied, traced, value, inference, moved) in found.items():
    print(f"{name:26}{tied} updates, moving mean {traced[-1]:5.2f}, loss {value:.2f}, at ", end="")
    print(f"inference {inference:6.2f}; an evaluation moves the mean by {moved:.1f}")
    followed = name.startswith("tied") or name.endswith("updates")
    assert (abs(traced[-1] - 5) < 1) == followed and (np.abs(traced).max() == 0) != followed
    assert value < 1 and (moved > 5) == (name == "tied to the loss")
    assert inference > 50 or not name.startswith(("forgotten", "read"))
assert found["tied to the train op"][3] < 0.2 and np.abs(today.moving_mean - 5).max() < 1
