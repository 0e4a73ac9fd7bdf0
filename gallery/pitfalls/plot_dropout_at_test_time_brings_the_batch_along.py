"""
Monte Carlo dropout by ``training=True`` switches batch norm as well
====================================================================

To draw several predictions for one image, people call ``model(x, training=True)``, which switches
dropout on. It switches batch norm to the statistics of the batch, too, and the batch is one image:
the mean of 5 such predictions has a test accuracy of :claim:`11 % <wrong>`, where ``predict`` has
:claim:`91 % <plain>`. The moving statistics move at each call, so that ``predict`` has
:claim:`80 % <after>` afterwards. With the norms frozen first, the mean of 5 has
:claim:`91 % <right>`.

.. symptom:: test accuracy near chance
   :cause: Monte Carlo dropout: ``training=True`` at test time for a model with batch norm
   :check: call ``model(x[:1], training=True)`` once with the norms frozen, once not
   :likelihood: sometimes
   :question: 3

.. symptom:: statistics change when they should not
   :cause: ``training=True`` at test time, for the sake of dropout
   :check: compare ``model.non_trainable_variables`` before and after a prediction
   :likelihood: sometimes
   :question: 3
"""

# %%
# Check
# -----
# Does your function of prediction move the statistics? ``predict`` is that function.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import norms, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def moved_by(predict, model, x):
    """The paths of the norms whose statistics change when predictions are made."""
    before = [(norm, np.asarray(norm.mean).copy()) for norm in norms.find(model)]
    predict(model, x)
    return [norm.path for norm, mean in before if not np.array_equal(mean, np.asarray(norm.mean))]


# %%
# Fix
# ---
# Freeze the norms before the model is called in training mode: ``trainable = False`` makes batch
# norm use its moving statistics, in Keras and in bnref. A function that was traced before keeps
# its behaviour, so freeze first. Set it back before training goes on.
#
# Wrong
# ^^^^^


def one_draw(model, x):
    return model(x, training=True)


# %%
# Right
# ^^^^^


def one_draw_with_frozen_norms(model, x):
    for norm in norms.find(model):
        norm.layer.trainable = False
    return model(x, training=True)


# %%
# Why
# ---
# It goes wrong at question 3 (used when): the batch's statistics are used where the population's
# belong. ``training`` is one switch for all layers, but they mean different things by it: dropout
# should be drawn (Gal & Ghahramani 2016, `arXiv 1506.02142 <https://arxiv.org/abs/1506.02142>`_,
# section 4), and batch norm should not look at the batch. In a batch of one, a dense layer's norm
# puts out β for every image. Another way is a dropout layer that is always on.
#
# In `keras-team/keras#9412 <https://github.com/keras-team/keras/issues/9412>`_ the call with
# ``training=True`` is given as all that it takes. For a model without batch norm it is.
# `NervanaSystems/neon#266 <https://github.com/NervanaSystems/neon/issues/266>`_ sees the trouble.
#
# Experiment
# ----------
# A perceptron with dropout, five draws for each of 1,000 test images, one image at a time.

data = datasets.load("mnist").take(train=3000, test=1000)
network = partial(
    models.perceptron, partial(bnref.BatchNorm, momentum=0.9), inputs=(28, 28, 1), dropout=0.2
)
DRAWS = 5
x_test, y_test = tf.constant(data.x_test), data.y_test


def drawn(model, draw):
    """Predicted probabilities, mean over the draws, each image alone: a row for each."""
    compiled = tf.function(lambda x: tf.nn.softmax(draw(model, x)))
    rows = []
    for i in range(len(y_test)):
        draws = [compiled(x_test[i : i + 1]) for _ in range(DRAWS)]
        rows.append(tf.reduce_mean(draws, axis=0)[0])
    return np.array(rows)


def accuracy(probabilities):
    return np.mean(np.argmax(probabilities, -1) == y_test)


# %%


def accuracies(seed):
    """By ``predict``; by draws with frozen norms; by draws as they are; by ``predict`` again."""
    for norm in norms.find(model):
        norm.layer.trainable = True
    restart(model, run.optimizer, network, seed=seed)
    run.train(data.x_train, data.y_train, steps=200, batch_size=64, seed=seed)
    found = [accuracy(model.predict(x_test, verbose=0))]
    found.append(accuracy(drawn(model, one_draw_with_frozen_norms)))
    silent = moved_by(one_draw_with_frozen_norms, model, x_test[:1])
    for norm in norms.find(model):
        norm.layer.trainable = True
    found.append(accuracy(drawn(model, one_draw)))
    found.append(accuracy(model.predict(x_test, verbose=0)))
    return found, moved_by(one_draw, model, x_test[:1]), silent


model = network()
run = training.Run(model, keras.optimizers.SGD(0.1))
results = [accuracies(seed) for seed in range(scale.at_scale(quick=3, full=10))]
plain, right, wrong, after = np.array([found for found, _, _ in results]).T

# %%

NAMES = "predict", "draws, norms frozen", "draws", "predict, afterwards"
fig, ax = plt.subplots(figsize=(6.2, 3), layout="constrained")
for place, (values, style) in enumerate(
    zip((plain, right, wrong, after), ("C4o", "C0o", "C1X", "C3s"), strict=True)
):
    ax.plot(values, np.full(len(values), place), style, ms=7)
ax.set(title="1,000 images, one at a time", xlabel="test accuracy", xlim=(0, 1))
ax.set(yticks=range(4), yticklabels=NAMES, ylim=(3.5, -0.5))
ax.set_ylabel("how it is tested")
plt.show()

# %%
# Proof
# -----
# Accuracies with each seed, and the check.

for name, values in zip(NAMES, (plain, right, wrong, after), strict=True):
    print(f"{name:20}", *values.round(3))
claim("plain", plain, "test accuracy by predict", above=0.8)
claim("right", right, "mean of 5 draws, norms frozen", above=0.8)
claim("wrong", wrong, "mean of 5 draws", below=0.5)
claim("after", after, "test accuracy by predict, after the draws", above=0.05, below=0.9)
assert (after < plain - 0.03).all(), "the draws have moved the statistics, with every seed"
for _, moved, silent in results:
    assert moved, "the check fires: a draw moves the statistics"
    assert not silent, "and is silent where the norms are frozen"
