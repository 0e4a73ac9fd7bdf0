"""
What batch norm buys: a range of learning rates, and not a fixed distribution
=============================================================================

With batch norm a perceptron learns at each of six rates of SGD from 0.01 to 3. Without, at 3 its
test accuracy is :claim:`10 % <without_high>`, that of guessing, and at 0.01 it is
:claim:`33 % <without_low>` after 150 steps, for :claim:`68 % <with_low>` with batch norm. At each
one's best rate it is :claim:`87 % <without_best>` and :claim:`92 % <with_best>`. The usual
explanation, that batch norm keeps the distribution of a layer's inputs fixed, fails a test: with
random shifts *after* each norm, anew in every step, the network still has
:claim:`86 % <shifted_high>` at rate 3.

.. symptom:: no better than without batch norm
   :cause: the learning rate is one that the network without batch norm bears, too
   :check: raise the learning rate tenfold, with and without batch norm
   :likelihood: usual
   :question: none
"""

# %%
# Check
# -----
# Compare at several rates, each network at its best. ``score(rate)`` trains and gives the accuracy.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def usable(score, rates, chance=0.1):
    """The rates at which more than half is learnt of what is learnt at the best of them."""
    scores = np.array([score(rate) for rate in rates])
    enough = chance + (scores.max() - chance) / 2
    return np.array(rates)[scores > enough]


# %%
# Fix
# ---
# Batch norm does not pay at a rate that was tuned without it. Raise the rate, and lower it over the
# steps.
#
# Wrong
# ^^^^^


def optimizer_of_old(steps):
    return keras.optimizers.SGD(0.03)


# %%
# Right
# ^^^^^


def optimizer_for_batch_norm(steps):
    rate = keras.optimizers.schedules.CosineDecay(0.3, steps)
    return keras.optimizers.SGD(rate)


# %%
# Why
# ---
# Nothing goes wrong here. Let w be the weights of one unit before a norm,
# and a > 0. What comes out does not depend on the length of w, and its gradient shrinks with it:
#
# .. math:: \mathrm{BN}(aw \cdot x) = \mathrm{BN}(w \cdot x), \qquad
#           \nabla_{aw} L = \tfrac1a \nabla_w L , \qquad w \cdot \nabla_w L = 0
#
# (Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.3; ε left out). A step is at a right angle to
# w, so w grows with every step, the more the larger the step is. The rate that matters, η/\|w\|²,
# falls by itself until it suits (Arora et al. 2019, arXiv 1812.03981). One step that is too large
# does no lasting harm.
#
# Ioffe & Szegedy gave another reason, *internal covariate shift*: each layer has to follow the
# changing distribution of its inputs. Santurkar et al. 2018 (`arXiv 1805.11604
# <https://arxiv.org/abs/1805.11604>`_, section 2) put random shifts behind the norms, which is such
# a change at its worst, and the networks trained as well. They find a smoother loss instead: along
# the gradient it changes less. That is measured below, too.
#
# Met in `tflearn/tflearn#530 <https://github.com/tflearn/tflearn/issues/530>`_: slower at the
# learning rate that the network had without batch norm.
#
# Experiment
# ----------
# Three hidden layers of 64 units; 150 steps with batches of 64 digits of 14 × 14 pixels.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SEEDS = range(scale.at_scale(quick=3, full=10))


class ShiftedBatchNorm(bnref.BatchNorm):
    """Batch norm, then another random mean and deviation for each channel in each step."""

    def call(self, x, training=False):
        y = super().call(x, training=training)
        if not training:
            return y
        shape = (1, x.shape[-1])
        factor = tf.random.uniform(shape, 0.5, 1.5)
        return y * factor + tf.random.normal(shape, stddev=0.5)


NORMS = {
    "without": None,
    "batch norm": partial(bnref.BatchNorm, momentum=0.9),
    "batch norm, then shifts": partial(ShiftedBatchNorm, momentum=0.9),
}

# %%
# How much does the loss change along its gradient? A step of each length is tried, and taken back.

LENGTHS = np.array([0.1, 0.2, 0.4, 0.8])


def loss_of(model, x, y):
    logits = model(x, training=True)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))


def changes_along_gradient(model, x, y):
    """The largest less the smallest loss on a way of 0.1 to 0.8 along the gradient."""
    variables, weights = model.trainable_variables, model.get_weights()
    with tf.GradientTape() as tape:
        loss = loss_of(model, x, y)
    gradients = tape.gradient(loss, [each.value for each in variables])
    length, losses = tf.linalg.global_norm(gradients), [float(loss)]
    for way in LENGTHS:
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(way * gradient / length)
        losses.append(float(loss_of(model, x, y)))
        model.set_weights(weights)
    return np.ptp(losses)


# %%


def swept(norm):
    """By rate and seed: accuracy, length of the second kernel before and after; smoothness."""
    network = partial(models.perceptron, norm, inputs=(14, 14, 1), units=(64, 64, 64))
    model = network()
    run = training.Run(model, keras.optimizers.SGD(RATES[0]))
    second = [each for each in model.trainable_variables if each.name == "kernel"][1]
    found = np.zeros((len(RATES), len(SEEDS), 4))
    for place, rate in enumerate(RATES):
        for seed in SEEDS:
            restart(model, run.optimizer, network, seed=seed)
            run.optimizer.learning_rate.assign(rate)
            before = np.linalg.norm(second)
            options = {"steps": 150, "batch_size": 64, "seed": seed, "nonfinite": "keep"}
            run.train(x_train, data.y_train, **options)
            accuracy = run.evaluate(x_test, data.y_test)[1]
            change = 0.0
            if rate == 0.1:
                change = changes_along_gradient(model, x_train[:256], data.y_train[:256])
            found[place, seed] = accuracy, before, np.linalg.norm(second), change
    return found


runs = {name: swept(norm) for name, norm in NORMS.items()}

# %%

fig, (accuracy, length, smooth) = plt.subplots(1, 3, figsize=(6.2, 3.2), layout="constrained")
for place, ((name, found), colour) in enumerate(zip(runs.items(), ("C4", "C0", "C1"), strict=True)):
    accuracy.semilogx(RATES, found[..., 0].mean(1), colour, marker="o", ms=4, label=name)
    accuracy.fill_between(
        RATES, found[..., 0].min(1), found[..., 0].max(1), color=colour, alpha=0.2
    )
    grown = found[..., 2] / found[..., 1]
    length.loglog(
        RATES, np.where(grown.mean(1) < 100, grown.mean(1), np.nan), colour, marker="o", ms=4
    )
    smooth.plot(
        np.full(len(SEEDS), place), found[RATES.index(0.1), :, 3], colour, marker="o", ls=""
    )
accuracy.set(title="After 150 steps", xlabel="learning rate", ylabel="test accuracy", ylim=(0, 1))
length.set(title="Length of weights", xlabel="learning rate", ylabel="after, over before")
smooth.set(title="Change of loss", ylabel="along the gradient", xticks=[], ylim=(0, None))
fig.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %%
# Proof
# -----
# Accuracies, lengths and the changes along the gradient.

for name, found in runs.items():
    print(f"{name:24} accuracy by rate", *found[..., 0].mean(1).round(3))
    print(
        f"{name:24} the weights' length, after over before",
        *(found[..., 2] / found[..., 1]).mean(1).round(2),
    )
without, normed, shifted = runs.values()
claim("without_high", without[-1, :, 0], "test accuracy at rate 3, without", below=0.3)
claim("without_low", without[0, :, 0], "test accuracy at rate 0.01, without", below=0.6)
claim("with_low", normed[0, :, 0], "test accuracy at rate 0.01, batch norm", above=0.45)
claim("shifted_high", shifted[-1, :, 0], "test accuracy at rate 3, with shifts", above=0.6)


def at_best_rate(found):
    return found[found[..., 0].mean(1).argmax(), :, 0]


claim("with_best", at_best_rate(normed), "accuracy at its best rate, batch norm", above=0.85)
claim("without_best", at_best_rate(without), "accuracy at its best rate, without", above=0.75)


def score(found, rate):
    return found[RATES.index(rate), :, 0].mean()


wide, narrow = (usable(partial(score, found), RATES) for found in (normed, without))
print("usable rates, with batch norm:", wide, "without:", narrow)
assert len(wide) == len(RATES), "with batch norm all six rates are usable"
assert len(narrow) < len(wide), "without it fewer are"
grown = normed[-1, :, 2] / normed[-1, :, 1]
claim("grown", grown, "length of the weights after 150 steps at rate 3, over before", above=1.2)
steep, smooth = (found[RATES.index(0.1), :, 3] for found in (without, normed))
claim("smoother", steep / smooth, "change along the gradient, without over with", above=2)
