"""
Before or after the activation, with a bias or without: where does batch norm go?
=================================================================================

It hardly matters. In a small convolutional network, each arrangement at its own best learning rate,
test accuracies with batch norm before and after the activation are :claim:`0.2 points <places>`
apart, which is less than between seeds, and so are the :claim:`1.1 points <without>` lost without
any norm. At three times the rate the network without a norm loses :claim:`34 points <rate>`. A bias
before a norm does nothing: biases of 1 move the outputs by :claim:`0.000002 <bias>` of the largest.
One place is wrong: behind the last layer, where the norm holds the logits down. There the
probability of the chosen class is :claim:`12 points <logits>` below the accuracy in the mean.

.. symptom:: no better than without batch norm
   :cause: batch norm stands behind the last layer, on the logits
   :check: does a norm give the outputs of the model?
   :doctor: norm_on_logits
"""

# %%
# Check
# -----
# The check finds a norm whose output is the model's output. A bias before a norm is no fault, only
# a waste; another check names it.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

from bnref import doctor, training
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Put the norm behind each convolution and before its activation, as its paper does, or behind the
# activation. Leave the last layer alone.
#
# Wrong
# ^^^^^


def head_wrong():
    return [keras.layers.Dense(10), keras.layers.BatchNormalization(momentum=0.9)]


# %%
# Right
# ^^^^^


def head_right():
    return [keras.layers.Dense(10)]


# %%
# Why
# ---
# Question 1 (whose statistics) has the same answer in each place: a channel's, over batch and
# pixels. What differs is what the next layer gets. Before the ReLU, a norm makes half of each
# channel positive (Ioffe & Szegedy 2015, `arXiv 1502.03167 <https://arxiv.org/abs/1502.03167>`_,
# section 3.2: what a linear layer puts out is more normally distributed). Behind it, the next layer
# gets mean 0 and variance 1. In residual blocks the order matters more, as a norm or a ReLU on the
# way of the shortcut changes what is handed on (He et al. 2016, `arXiv 1603.05027
# <https://arxiv.org/abs/1603.05027>`_, section 4: norm and activation before the convolution).
#
# A bias b before a norm is a part of the mean that is taken away, BN(wx + b) = BN(wx), so its
# gradient is 0; β does its work. On the logits a norm gives each class mean 0 and variance 1 over
# the batch, which no confident prediction has; γ can undo it, but is slow:
# :doc:`/gallery/questions/plot_with_and_without_normalizes_its_logits`.
#
# Asked in `keras-team/keras#4618 <https://github.com/keras-team/keras/issues/4618>`_ and
# `cvjena/cnn-models#3 <https://github.com/cvjena/cnn-models/issues/3>`_.
#
# Experiment
# ----------
# Three convolutions on digits of half the width and height, 120 steps of Adam at two rates.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
RATES, SEEDS = (0.01, 0.03), range(scale.at_scale(quick=3, full=10))


def norm():
    return keras.layers.BatchNormalization(momentum=0.9)


def convolution(filters, bias=False):
    return keras.layers.Conv2D(filters, 3, padding="same", use_bias=bias)


def before_activation(filters):
    return [convolution(filters), norm(), keras.layers.ReLU()]


def before_activation_with_bias(filters):
    return [convolution(filters, bias=True), norm(), keras.layers.ReLU()]


def after_activation(filters):
    return [convolution(filters, bias=True), keras.layers.ReLU(), norm()]


def before_convolution(filters):
    return [norm(), keras.layers.ReLU(), convolution(filters, bias=True)]


def no_norm(filters):
    return [convolution(filters, bias=True), keras.layers.ReLU()]


ARMS = {
    "convolution, norm, ReLU": (before_activation, head_right),
    "convolution, ReLU, norm": (after_activation, head_right),
    "norm, ReLU, convolution": (before_convolution, head_right),
    "no norm": (no_norm, head_right),
    "norm on the logits, too": (before_activation, head_wrong),
}

# %%


def network(block, head):
    layers = [keras.Input((14, 14, 1))]
    for filters in (8, 16, 32):
        layers += [*block(filters), keras.layers.MaxPooling2D()]
    return keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D(), *head()])


def confidence(model):
    """The mean probability of the class that is chosen, over the test images."""
    probabilities = keras.ops.softmax(model(x_test, training=False))
    return float(np.mean(np.max(probabilities, axis=-1)))


def measured(arm):
    """Loss, accuracy and confidence in the test, of shape (rates, seeds, 3)."""
    model, found = network(*arm), []
    run = training.Run(model, keras.optimizers.Adam(RATES[0]))
    for rate in RATES:
        rows = []
        for seed in SEEDS:
            restart(model, run.optimizer, partial(network, *arm), seed=seed)
            run.optimizer.learning_rate.assign(rate)
            run.train(x_train, data.y_train, steps=120, batch_size=64, seed=seed)
            rows.append([*run.evaluate(x_test, data.y_test), confidence(model)])
        found.append(rows)
    return np.array(found)


def moved_by_bias():
    """How far biases of 1 before each norm move the outputs in training, over the largest."""
    model = network(before_activation_with_bias, head_right)
    outputs = np.asarray(model(x_train[:64], training=True))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.bias.assign(np.ones(layer.filters))
    moved = np.asarray(model(x_train[:64], training=True)) - outputs
    return np.abs(moved).max() / np.abs(outputs).max()


by_rate = {name: measured(arm) for name, arm in ARMS.items()}
places = {name: found[..., 1].mean(1).argmax() for name, found in by_rate.items()}
results = {name: (by_rate[name][place], RATES[place]) for name, place in places.items()}

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for place, (found, _) in enumerate(results.values()):
    ax.plot(found[:, 1], np.full(len(found), place), "C0o" if place < 3 else "C1X", ms=6)
ax.set(title="At each one's best rate", xlabel="test accuracy", yticks=range(len(ARMS)))
ax.set(yticklabels=ARMS, ylim=(len(ARMS) - 0.5, -0.5), ylabel="arrangement")
plt.show()

# %%
# Proof
# -----
# Accuracies, losses, and the doctor.

for name, (found, rate) in results.items():
    print(f"{name:24} rate {rate}, by seed: loss, accuracy, confidence {found.round(3).tolist()}")
before, after, first, without, logits = (found for found, _ in results.values())
means = [each[:, 1].mean() for each in (before, after)]
claim("places", np.ptp(means), "accuracy between before and after the activation", below=0.04)
claim("bias", moved_by_bias(), "outputs moved by biases of 1, over the largest", below=1e-4)
lost = before[:, 1].mean() - without[:, 1].mean()
claim("without", lost, "accuracy lost without a norm, best rates", above=-0.03, below=0.06)
fast = [by_rate[name][1, :, 1].mean() for name in ("convolution, norm, ReLU", "no norm")]
claim("rate", fast[0] - fast[1], "the same at a rate of 0.03", above=0.01)
shy = {name: found[0, :, 1] - found[0, :, 2] for name, found in by_rate.items()}
told = "accuracy less confidence, at a rate of 0.01"
claim("logits", shy["norm on the logits, too"], told, above=0.06)
for name in list(ARMS)[:4]:
    assert shy[name].max() < 0.05, f"{name}: the confidence is about the accuracy"
assert first[:, 1].min() > without[:, 1].max() - 0.05, "the norm first does as well"


def found_by_doctor(name):
    some = x_test[:64], data.y_test[:64]
    report = doctor.examine(network(*ARMS[name]), some, only=["norm_on_logits"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of the norm on the logits:", *found_by_doctor("norm on the logits, too"))
assert found_by_doctor("norm on the logits, too"), "the check fires on the norm on the logits"
for name in list(ARMS)[:3]:  # those with norms, in other places
    assert not found_by_doctor(name), f"{name}: and is silent on the others"
