"""
A norm shared by two branches and called twice remembers what fits neither
==========================================================================

A Siamese network matches digits to negatives of digits. In training mode it finds a partner of the
same class for :claim:`82 % <in_training>` of the test images; at inference, by the same weights,
for :claim:`23 % <at_inference>`. One call on both inputs together keeps :claim:`73 % <one_call>` at
inference, and a norm for each branch, with the other weights still shared,
:claim:`85 % <norm_each>`.

.. symptom:: validation far worse than training
   :doctor: shared_by_branches
   :cause: a shared network is called once for each branch, and the branches differ in kind
   :check: ``network(a, training=True)`` and ``network(a)`` differ widely, for either branch alone

.. symptom:: test accuracy near chance
   :doctor: shared_by_branches
   :cause: a Siamese network called once for each branch: one population for two kinds of input
   :check: ``layer.moving_mean`` is near the batch means of neither branch
"""

# %%
# Check
# -----
# Give it the model with both branches. The check compares the inputs of each norm from call to
# call of one pass, in deviations.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# One call on the concatenation, if both kinds come at inference too; or a norm for each kind, if it
# is known which is which (:doc:`/gallery/variants/plot_two_domains_in_one_batch`).
#
# Wrong
# ^^^^^


def codes_by_two_calls(network, a, b, training):
    return network(a, training=training), network(b, training=training)


# %%
# Right
# ^^^^^


def codes_by_one_call(network, a, b, training):
    together = tf.concat([a, b], 0)
    return tf.split(network(together, training=training), 2)


# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    one, other = network(a), network(b)
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    one, other = network(torch.cat([a, b])).chunk(2)
#
# Why
# ---
# It goes wrong at question 2 (remembered how): each call normalizes its kind of input by its own
# statistics, and both move one population, in turns. With momentum ρ, calls in turns of means 0 and
# 10 bring the moving mean to 10/(1 + ρ), and the variance between the two kinds is never seen. For
# inputs of variance 1 it ends at mean 5.3 and variance 1, where the mixture has 5 and 26: each
# branch is then 5 standard deviations off.
#
# `keras-team/keras#8794 <https://github.com/keras-team/keras/issues/8794>`_ reports a moving
# variance of 0 in a shared layer: two calls with a constant each would leave it so.
#
# Experiment
# ----------
# Two kinds of input and one layer.

norm = partial(bnref.BatchNorm, momentum=0.9)
random = np.random.default_rng(0)
kinds = [random.normal(mean, 1, (4096, 1)).astype("float32") for mean in (0, 10)]
twice = norm()
once = norm()
for _ in range(100):
    codes_by_two_calls(twice, *kinds, training=True)
    codes_by_one_call(once, *kinds, training=True)
of_two_calls = np.ravel([twice.moving_mean, twice.moving_variance])
of_one_call = np.ravel([once.moving_mean, once.moving_variance])
print("mean and variance, two calls and one:", of_two_calls.round(2), of_one_call.round(2))

# %%
# The network gets 64 images and 64 negatives in each step, and learns by a softmax over their
# similarities.

data = datasets.load("mnist").take(train=3000, test=1000)
ARMS = "two calls", "one call", "two calls, a norm each"


def branches(arm):
    """Two networks of shared layers; the same one twice, unless each has its norms."""
    dense = [keras.layers.Dense(units) for units in (64, 64, 32)]

    def branch():
        layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
        for each in dense[:2]:
            layers += [each, norm(), keras.layers.ReLU()]
        return keras.Sequential([*layers, dense[2], keras.layers.UnitNormalization()])

    first = branch()
    return first, branch() if arm == "two calls, a norm each" else first


# %%
# One step of training, and what is measured.


def encoded(pair, images, negatives, arm, training):
    if arm == "one call":
        return codes_by_one_call(pair[0], images, negatives, training)
    if arm == "two calls":
        return codes_by_two_calls(pair[0], images, negatives, training)
    return pair[0](images, training=training), pair[1](negatives, training=training)


def traced_step(pair, arm, optimizer, variables):
    @tf.function
    def step(images, negatives, same):
        with tf.GradientTape() as tape:
            one, other = encoded(pair, images, negatives, arm, training=True)
            logits = 10 * tf.matmul(one, other, transpose_b=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(same, logits))
        optimizer.apply(tape.gradient(loss, [each.value for each in variables]), variables)

    return step


def share_found(pair, arm, mode):
    """The share of the test images that find a partner of their class in the other half."""
    halves, found = (np.arange(500), np.arange(500, 1000)), []
    for seeking, sought in (halves, halves[::-1]):
        images, negatives = data.x_test[seeking], 1 - data.x_test[sought]
        one, other = encoded(pair, images, negatives, arm, training=mode)
        nearest = np.argmax(tf.matmul(one, other, transpose_b=True), 1)
        found.append(data.y_test[seeking] == data.y_test[sought][nearest])
    return np.mean(found)


# %%


def batches(seed):
    """Images, negatives, and for each pair whether it is of one class, in shares of the row."""
    for i, j in np.random.default_rng(seed).integers(0, 3000, (200, 2, 64)):
        same = np.float32(data.y_train[i][:, None] == data.y_train[j]) + np.float32(1e-6)
        batch = data.x_train[i], 1 - data.x_train[j], same / same.sum(1, keepdims=True)
        yield [tf.constant(each) for each in batch]


# %%
# The step of each network is compiled once. For each seed the weights, and what Adam remembers,
# start anew.


def shares(arm):
    """In training mode and at inference; a row a seed."""
    rows = []
    pair = branches(arm)
    optimizer = keras.optimizers.Adam(3e-3)
    variables = list({id(v): v for each in pair for v in each.trainable_variables}.values())
    optimizer.build(variables)
    step = traced_step(pair, arm, optimizer, variables)
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(pair, optimizer, partial(branches, arm), seed=seed)
        for batch in batches(seed):
            step(*batch)
        at_inference = share_found(pair, arm, mode=False)
        rows.append([share_found(pair, arm, mode=True), at_inference])
    return np.array(rows)


runs = {arm: shares(arm) for arm in ARMS}

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for arm, found, style in zip(ARMS, runs.values(), ("C1X", "C0o", "C0o"), strict=True):
    ax.plot(found[:, 0], [arm] * len(found), "C4|", ms=14)
    ax.plot(found[:, 1], [arm] * len(found), style)
ax.set(title="Same class found: in training ( | ), at inference", xlim=(0, 1), ylim=(2.5, -0.5))
ax.set(xlabel="share of the test images")
ax.set_ylabel("norms of the branches")
plt.show()

# %%
# Proof
# -----
# What the layer remembers, the shares, and the doctor on both models.

assert np.allclose(of_two_calls, [10 / 1.9, 1], rtol=0.03), "two calls: 10/(1 + ρ), and 1"
assert np.allclose(of_one_call, [5, 26], rtol=0.03), "one call: those of the mixture"
for arm, found in runs.items():
    print(f"{arm}, in training mode and at inference:", *found.round(3).tolist())
claim("in_training", runs["two calls"][:, 0], "two calls, in training mode", above=0.7)
claim("at_inference", runs["two calls"][:, 1], "two calls, at inference", above=0.05, below=0.6)
claim("one_call", runs["one call"][:, 1], "one call, at inference", above=0.6)
claim("norm_each", runs[ARMS[2]][:, 1], "a norm each, at inference", above=0.6)
lost = {arm: found[:, 0] - found[:, 1] for arm, found in runs.items()}
claim("lost", lost["two calls"], "lost at inference, two calls", above=0.35, of="mean")
claim("lost_one_call", lost["one call"], "lost, one call", below=0.15, of="mean")
claim("lost_norm_each", lost[ARMS[2]], "lost, a norm each", below=0.1, of="mean")


def told(arm):
    inputs = [keras.Input((28, 28, 1)) for _ in range(2)]
    outputs = [branch(each) for branch, each in zip(branches(arm), inputs, strict=True)]
    kinds = data.x_test[:250], 1 - data.x_test[250:500]
    report = doctor.examine(keras.Model(inputs, outputs), kinds, only=["shared_by_branches"])
    return [finding.evidence for finding in report.findings]


evidence = told("two calls")
print("the doctor, of the wrong model:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not told("two calls, a norm each"), "and is silent on the right one"
