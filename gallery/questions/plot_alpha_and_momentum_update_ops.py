"""
Why are the moving averages never updated unless UPDATE_OPS are tied to the train op?
=====================================================================================

A session of TensorFlow 1 runs what it is asked for and what that needs, and nothing else. The
gradients need the statistics of the batch, and not the moving averages. ``tf.layers`` leaves the
updates of the averages in a collection, ``UPDATE_OPS``, two for each layer, and they run only if
the train op depends on them. If it does not, the moving mean stays 0: a network with a loss of
:claim:`0.41 <training_loss>` by the noisy statistics of 32 examples has one of
:claim:`184 <forgotten_loss>` at inference, and with three more lines :claim:`0.02 <tied_loss>`.

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

# %%
# Check
# -----
# ``means_left_alone`` makes a training step, and names the moving means that it left as they were.

import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras.src.legacy_tf_layers.normalization import batch_normalization

from bnref import tf1
from bnref_gallery import scale
from bnref_gallery.claims import claim

# %%

v1 = tf.compat.v1


def means_left_alone(session, train_op, feed):
    means = v1.global_variables(".*moving_mean")
    before = session.run(means)
    session.run(train_op, feed)
    after = session.run(means)
    pairs = zip(means, before, after, strict=True)
    return [mean.name for mean, old, new in pairs if np.array_equal(old, new)]


# %%
# Fix
# ---
# Three lines, where your code has ``optimizer.minimize(loss)``, **after** the last layer is made.
# Copy them as they are; the optimizer and the loss are yours. With a second network in the graph,
# give ``get_collection`` a ``scope``. From a layer of tf_keras the three lines collect nothing. One
# of Keras 3 works outside of sessions, where a call with ``training=True`` moves its averages.
#
# Wrong, TensorFlow 1
# ^^^^^^^^^^^^^^^^^^^


def train_op_alone(optimizer, loss):
    return optimizer.minimize(loss)


# %%
# Right, TensorFlow 1
# ^^^^^^^^^^^^^^^^^^^


def train_op_with_updates(optimizer, loss):
    key = v1.GraphKeys.UPDATE_OPS
    updates = v1.get_collection(key)
    with v1.control_dependencies(updates):
        return optimizer.minimize(loss)


# %%
# Wrong, tf_keras in a session
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^


def train_op_with_collection(optimizer, loss, layer):
    return train_op_with_updates(optimizer, loss)


# %%
# Right, tf_keras in a session
# ^^^^^^^^^^^^^^^^^^^^^^^^^^^^


def train_op_with_layer(optimizer, loss, layer):
    with v1.control_dependencies(layer.updates):
        return optimizer.minimize(loss)


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how). The answer to the post of :doc:`alpha and momentum
# </gallery/questions/plot_alpha_and_momentum>` has the right code. Its text says that the cost has
# to wait. It is the train op that waits, as it is made in the block. If the loss is made there,
# each evaluation in training mode moves the averages, and a step without the loss does not.
#
# Others met `means of 0 and variances of 1
# <https://github.com/tensorflow/tensorflow/issues/11965>`__, `the update tied to the loss
# <https://github.com/tensorflow/tensorflow/issues/7577>`__, `Keras layers that add none
# <https://github.com/tensorflow/tensorflow/issues/23873>`__.
#
# Experiment
# ----------
# One batch norm feeds one dense layer. Seven programs differ in what runs the updates.

warnings.filterwarnings("ignore", "`tf.layers.batch_normalization` is deprecated")


def loss_of(hidden, y):
    with v1.variable_scope("dense", reuse=v1.AUTO_REUSE):
        return tf.reduce_mean((hidden @ v1.get_variable("weights", (4, 1)) - y) ** 2)


def of_tf_layers(program, x, y, training):
    """Loss, loss at inference, and train op of a program with ``tf.layers``."""
    optimizer = v1.train.AdamOptimizer(0.1)
    too_early = v1.get_collection(v1.GraphKeys.UPDATE_OPS)  # empty: no layer is made yet
    loss = loss_of(batch_normalization(x, training=training, momentum=0.9), y)
    if program == "tied to the loss":
        with v1.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
            loss = tf.identity(loss)
    if program == "read before the layers":
        with v1.control_dependencies(too_early):
            return loss, loss, optimizer.minimize(loss)
    train_op = train_op_with_updates if program == "tied to the train op" else train_op_alone
    return loss, loss, train_op(optimizer, loss)


def of_keras(library, train_op, x, y):
    """The same with a Keras layer, which is called once for each mode."""
    layer = library.layers.BatchNormalization(momentum=0.9)
    loss = loss_of(layer(x, training=True), y)
    at_test = loss_of(layer(x, training=False), y)
    return loss, at_test, train_op(v1.train.AdamOptimizer(0.1), loss, layer)


# %%

PROGRAMS = ["forgotten", "read before the layers", "tied to the loss", "tied to the train op"]
KERAS = {"tf_keras layer": (tf_keras, train_op_with_collection)}
KERAS["Keras 3 layer"] = (keras, train_op_with_collection)
KERAS["tf_keras layer, its updates"] = (tf_keras, train_op_with_layer)

# %%
# Each trains for 200 batches. Then the loss is evaluated in training mode on inputs larger by 100,
# which must not move the averages; before and after that, at inference.

random = np.random.default_rng(0)
X = random.normal(5, 3, (512, 4)).astype("f4")
Y = (X - 5) @ np.array([[1.0], [-1], [0.5], [2]], "f4") / 3
BATCHES = random.integers(0, 512, (200, 32))

# %%


def outcome(program, seed):
    with tf1.tensorflow_1(resource_variables=True, seed=seed), v1.Session() as session:
        x, y = v1.placeholder(tf.float32, (None, 4)), v1.placeholder(tf.float32, (None, 1))
        training = v1.placeholder_with_default(False, ())
        if program in KERAS:
            loss, at_test, train = of_keras(*KERAS[program], x, y)
        else:
            loss, at_test, train = of_tf_layers(program, x, y, training)
        found = {"updates": len(v1.get_collection(v1.GraphKeys.UPDATE_OPS)), "mean": []}
        session.run(v1.global_variables_initializer())
        mean = v1.global_variables(".*moving_mean")[0]
        for step, i in enumerate(BATCHES):
            feed = {x: X[i], y: Y[i], training: True}
            _, found["training"] = session.run([train, loss], feed)
            if step % 5 == 4:
                found["mean"].append(session.run(mean)[0])
        found["inference"] = session.run(at_test, {x: X, y: Y})
        session.run(loss, {x: X + 100, y: Y, training: True})
        found["moved"] = abs(session.run(mean)[0] - found["mean"][-1])
        found["spoilt"] = session.run(at_test, {x: X, y: Y}) - found["inference"]
        found["alone"] = means_left_alone(session, train, feed)
        return found


seeds = range(scale.at_scale(quick=3, full=10))
runs = {program: [outcome(program, seed) for seed in seeds] for program in (*PROGRAMS, *KERAS)}

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
styles = ("C1-", "C3--", "C2-", "C0:", "C4-", "k:", "k--")
for (program, found), style, width in zip(runs.items(), styles, (7, 4, 6, 4, 2, 1, 1), strict=True):
    ax.plot(range(5, 201, 5), found[0]["mean"], style, label=program, lw=width, alpha=0.7)
ax.set(title="First channel (true mean: 5)", xlabel="training batch", ylabel="moving mean")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# Which programs move the means, what that costs, the check; and Keras 3 without a session.


def values(program, name):
    return np.array([found[name] for found in runs[program]])


for program in runs:
    mean, inference = values(program, "mean"), values(program, "inference")
    print(f"{program:28}mean {mean[:, -1].mean():.2f}, loss at inference {inference.mean():.2f}")
    right = program.startswith("tied") or program.endswith("its updates")
    assert (values(program, "updates") == (0 if program in KERAS else 2)).all(), "updates collected"
    assert values(program, "training").max() < 1, f"{program}: it learns"
    if right:
        assert np.abs(mean[:, -1] - 5).max() < 1, f"{program}: the mean is followed"
        assert inference.max() < 0.2, f"{program}: right at inference"
    else:
        assert not mean.any(), f"{program}: the mean stays 0"
        assert inference.min() > 50, f"{program}: wrong at inference"
    for name in ("moved", "spoilt"):
        found = values(program, name)
        assert (found > 5).all() == (program == "tied to the loss"), f"{program}: mean, loss {name}"
    sound = program in ("tied to the train op", "tf_keras layer, its updates")
    for found in runs[program]:
        assert bool(found["alone"]) != sound, f"{program}: the check fires, or is silent"

# %%

claim("training_loss", values("forgotten", "training"), "loss in training mode", below=1)
claim("forgotten_loss", values("forgotten", "inference"), "loss at inference", above=50)
claim("tied_loss", values("tied to the train op", "inference"), "the same, tied", below=0.2)

layer = keras.layers.BatchNormalization(momentum=0.9)
for batch in BATCHES:
    layer(X[batch], training=True)
assert np.abs(layer.moving_mean - 5).max() < 1, "a call with training=True moves the means"
