"""
A norm shared by two branches and called twice remembers what fits neither
==========================================================================

A Siamese network matches digits to negatives of digits. In training mode it finds a partner of the
same class for **more than 70 %** of the test images; at inference, by the same weights, for **more
than 35 points** fewer, on average over the starts. One call on both inputs together loses fewer
than 15 points, and a norm for each branch, with the other weights still shared, fewer than 10.

The symptom: training is fine and inference poor. Question 2, *remembered how*, is answered wrongly:
each call normalizes its kind of input by its own statistics, and both move one population, in
turns. For inputs of means 0 and 10 and variance 1 it ends at mean **5.3** and variance **1**, where
the mixture has 5 and 26: each branch is then read 5 standard deviations off.

.. symptom:: validation far worse than training
   :doctor: shared_by_branches
   :cause: a shared network is called once for each branch, and the branches differ in kind
   :check: ``network(a, training=True)`` and ``network(a)`` differ widely, for either branch alone

.. symptom:: test accuracy near chance
   :doctor: shared_by_branches
   :cause: a Siamese network called once for each branch: one population for two kinds of input
   :check: ``layer.moving_mean`` is near the batch means of neither branch
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor
from bnref_gallery import datasets, scale

norm = partial(bnref.BatchNorm, momentum=0.9)

# %%
# Two kinds of input and one layer. With momentum ρ, calls in turns of means 0 and 10 bring the
# moving mean to 10/(1 + ρ), and the variance between the two kinds is never seen.

random = np.random.default_rng(0)
kinds = [random.normal(mean, 1, (4096, 1)).astype("float32") for mean in (0, 10)]
layers = twice, once = norm(), norm()
for _ in range(100):
    for kind in kinds:
        twice(kind, training=True)  # wrong
    once(np.concatenate(kinds), training=True)  # right
moments = np.array([np.ravel([each.moving_mean, each.moving_variance]) for each in layers])
print("mean and variance, two calls and one:", *moments.round(2))

# %%
# The network: 64 images and 64 negatives a step, by a softmax over the similarities.

data = datasets.load("mnist").take(train=3000, test=500)
ARMS = "two calls", "one call", "two calls, a norm each"


def branches(arm):
    dense = [keras.layers.Dense(units) for units in (64, 64, 32)]

    def branch():
        layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
        for each in dense[:2]:
            layers += [each, norm(), keras.layers.ReLU()]
        return keras.Sequential([*layers, dense[2], keras.layers.UnitNormalization()])

    first = branch()
    return first, branch() if arm == "two calls, a norm each" else first


def encoded(pair, images, negatives, arm, training):
    if arm == "one call":
        return tf.split(pair[0](tf.concat([images, negatives], 0), training=training), 2)
    return pair[0](images, training=training), pair[1](negatives, training=training)


def trained(arm, seed):
    """The share of test images that find their class, in training mode and at inference."""
    keras.utils.set_random_seed(seed)
    pair, optimizer = branches(arm), keras.optimizers.Adam(3e-3)
    variables = list({id(v): v for each in pair for v in each.trainable_variables}.values())
    optimizer.build(variables)

    @tf.function
    def step(images, negatives, same):
        with tf.GradientTape() as tape:
            one, other = encoded(pair, images, negatives, arm, training=True)
            logits = 10 * tf.matmul(one, other, transpose_b=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(same, logits))
        optimizer.apply(tape.gradient(loss, [each.value for each in variables]), variables)

    for i, j in np.random.default_rng(seed).integers(0, 3000, (200, 2, 64)):
        same = np.float32(data.y_train[i][:, None] == data.y_train[j]) + np.float32(1e-6)
        batch = data.x_train[i], 1 - data.x_train[j], same / same.sum(1, keepdims=True)
        step(*map(tf.constant, batch))
    shares, (x, y) = [], (data.x_test, data.y_test)
    for mode in (True, False):
        one, other = encoded(pair, x[:250], 1 - x[250:], arm, training=mode)
        nearest = np.argmax(tf.matmul(one, other, transpose_b=True), 1)
        shares.append(np.mean(y[:250] == y[250:][nearest]))
    return shares


seeds = range(scale.at_scale(quick=3, full=10))
runs = {arm: np.array([trained(arm, seed) for seed in seeds]) for arm in ARMS}
fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for arm, shares, style in zip(ARMS, runs.values(), ("C1X", "C0o", "C0o"), strict=True):
    ax.plot(shares[:, 0], [arm] * len(seeds), "C4|", ms=14)
    ax.plot(shares[:, 1], [arm] * len(seeds), style)
ax.set(title="Same class found: in training ( | ), at inference", xlim=(0, 1), ylim=(2.5, -0.5))
plt.show()

# %%
# To check your own model, call each branch in both modes; or, with both branches in one model,
# ``bnref.doctor.examine(model, data, only=["shared_by_branches"])``. The fix: one call on the
# concatenation, if both kinds come at inference too, or a norm for each kind, if it is known which
# is which. See also :doc:`/gallery/variants/plot_two_domains_in_one_batch`.
# `keras-team/keras#8794 <https://github.com/keras-team/keras/issues/8794>`_ reports a moving
# variance of 0 in a shared layer: two calls with a constant each would leave it so.
#
# Conclusion
# ----------

np.testing.assert_allclose(moments, [[10 / 1.9, 1], [5, 26]], rtol=0.03)
lost = {arm: (shares[:, 0] - shares[:, 1]).mean() for arm, shares in runs.items()}
for arm, shares in runs.items():
    print(f"{arm}, in training mode and at inference:", *shares.round(3).tolist())
assert runs["two calls"][:, 0].mean() > 0.7 and lost["two calls"] > 0.35
assert lost["one call"] < 0.15 and lost[ARMS[2]] < 0.1


def found(arm):
    inputs = [keras.Input((28, 28, 1)) for _ in range(2)]
    outputs = [branch(each) for branch, each in zip(branches(arm), inputs, strict=True)]
    kinds = data.x_test[:250], 1 - data.x_test[250:]
    model = keras.Model(inputs, outputs)
    report = doctor.examine(model, kinds, only=["shared_by_branches"])
    return [finding.evidence for finding in report.findings]


evidence = found("two calls")
print("the doctor, of the wrong model:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not found("two calls, a norm each"), "and is silent on the right one"
