"""
Batch norm makes the gradients of a deep network explode, unless it has shortcuts
=================================================================================

Before the first step, the gradient of a plain network of 40 layers with batch norm is
:claim:`2000 times <exploded>` as large at its first layer as at its last one, relative to the
weights. With a shortcut around each layer it is :claim:`5 times <residual>` as large. After 150
steps, each network at its own best learning rate, the plain one classifies
:claim:`50 % <plain_learns>` of the test digits correctly, and the one with shortcuts
:claim:`90 % <residual_learns>`.

.. symptom:: no better than without batch norm
   :cause: many plain layers, each with batch norm: gradients grow with depth
   :check: compare the gradients of the first layers with those of the last, relative to the weights
   :likelihood: rarely
   :question: none

.. symptom:: NaN or infinity
   :cause: many plain layers, each with batch norm: the first gradients are too large
   :check: compare the gradients of the first layers with those of the last, relative to the weights
   :likelihood: rarely
   :question: none
"""

# %%
# Check
# -----
# How long is the gradient of each kernel, as a share of the kernel? Where the first layers' shares
# are a hundred times those of the last ones, no learning rate suits both.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import training
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def relative_gradients(model, x, y):
    """The length of each kernel's gradient over the length of the kernel, from first to last."""
    kernels = [each.value for each in model.trainable_variables if each.name == "kernel"]
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    gradients = tape.gradient(loss, kernels)
    shares = []
    for gradient, kernel in zip(gradients, kernels, strict=True):
        shares.append(float(tf.norm(gradient) / tf.norm(kernel)))
    return np.array(shares)


# %%
# Fix
# ---
# Add the input of each block to what it computes. Then start the branch small, if you can: a γ of
# zero in the branch's last norm makes each block the identity at first.
#
# Wrong
# ^^^^^


def plain_block(x, branch):
    return branch(x)


# %%
# Right
# ^^^^^


def residual_block(x, branch):
    return x + branch(x)


# %%
# Why
# ---
# None of the three questions is answered wrongly; it is what the division by σ does. Let a layer be
# ``dense(relu(norm(x)))``. The values after the norm have variance 1. A ReLU leaves variance
# (π − 1)/2π of a normal distribution with variance 1, and lets half of the squared gradient pass.
# The next norm divides by the deviation of what arrives. With weights of any size the square of the
# gradient's length therefore grows per layer, backwards, by
#
# .. math:: \frac{1/2}{(\pi - 1) / 2\pi} = \frac{\pi}{\pi - 1} = 1.47 ,
#
# its length by 1.21, and over 40 layers by 2,000. No initialization helps, as a norm takes the
# weights' scale away (Yang et al. 2019, `arXiv 1902.08129 <https://arxiv.org/abs/1902.08129>`_).
# With a shortcut the variance of x grows by 1 in each block, as every branch adds values of
# variance 1: the branch's share is 1/(l + 1) in block l, and the gradient grows like a power of the
# depth (De & Smith 2020, `arXiv 2002.10444 <https://arxiv.org/abs/2002.10444>`_). Without batch
# norm each block doubles the variance, and the branch's share is one half at any depth.
#
# There is another side. In a deep plain network *without* batch norm all images come to look the
# same; with it they stay apart (Daneshmand et al. 2020, `arXiv 2003.01652
# <https://arxiv.org/abs/2003.01652>`_).
#
# Experiment
# ----------
# Four networks of 40 layers with 64 units, and weights as He et al. draw them.

DEPTH, WIDTH, SEEDS = 40, 64, range(scale.at_scale(quick=3, full=10))
data = datasets.load("mnist").take(train=3000, test=1000)


def network(block, normalized):
    """Its outputs are the logits, and what enters each block."""
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Dense(WIDTH, kernel_initializer="he_normal")(keras.layers.Flatten()(inputs))
    entering = []
    for _ in range(DEPTH):
        entering.append(x)
        layers = [keras.layers.BatchNormalization(momentum=0.9)] if normalized else []
        layers.append(keras.layers.ReLU())
        layers.append(keras.layers.Dense(WIDTH, kernel_initializer="he_normal"))
        x = block(x, keras.Sequential(layers))
    x = keras.layers.BatchNormalization(momentum=0.9)(x) if normalized else x
    logits = keras.layers.Dense(10)(keras.layers.ReLU()(x))
    return keras.Model(inputs, logits), keras.Model(inputs, [*entering, x])


NETWORKS = {
    "batch norm": partial(network, plain_block, True),
    "batch norm, shortcuts": partial(network, residual_block, True),
    "no norm": partial(network, plain_block, False),
    "no norm, shortcuts": partial(network, residual_block, False),
}

# %%


def effective_rank(values):
    """Of how many directions equal in size the values of a batch could be made."""
    shares = np.linalg.svd(values, compute_uv=False) ** 2
    return np.sum(shares) ** 2 / np.sum(shares**2)


def before_training(make_network):
    """Relative gradients, the variance that enters each block, and its effective rank."""
    rows = []
    for seed in SEEDS:
        keras.utils.set_random_seed(seed)
        model, states = make_network()
        x, y = data.x_train[:128], data.y_train[:128]
        gradients = relative_gradients(model, x, y)[1:-1]  # of the 40 blocks
        entering = [np.asarray(each) for each in states(x, training=True)]
        variances = [each.var(axis=0).mean() for each in entering]
        rows.append((gradients, variances, [effective_rank(each) for each in entering]))
    return [np.array(each) for each in zip(*rows, strict=True)]


found = {name: before_training(make) for name, make in NETWORKS.items()}

# %%
# Two of them are trained, each at three learning rates.

RATES = (1e-4, 1e-3, 1e-2)


def accuracies(make_network):
    """Test accuracy, a row a learning rate, a column a seed."""
    model = make_network()[0]
    run = training.Run(model, keras.optimizers.Adam(RATES[0]))
    rows = []
    for rate in RATES:
        row = []
        for seed in SEEDS:
            restart(model, run.optimizer, lambda: make_network()[0], seed=seed)
            run.optimizer.learning_rate.assign(rate)
            run.train(data.x_train, data.y_train, steps=150, batch_size=64, seed=seed)
            row.append(run.evaluate(data.x_test, data.y_test)[1])
        rows.append(row)
    return np.array(rows)


learnt = {name: accuracies(NETWORKS[name]) for name in ("batch norm", "batch norm, shortcuts")}

# %%

fig, axes = plt.subplots(2, 2, figsize=(6.2, 6), layout="constrained")
gradient, rank, share, learning = axes.ravel()
blocks = np.arange(1, DEPTH + 1)
for (name, (gradients, variances, ranks)), style in zip(
    found.items(), ("C3-", "C0-", "C1--", "C4--"), strict=True
):
    gradient.semilogy(blocks, gradients.mean(0) / gradients.mean(0)[-1], style, label=name)
    rank.plot(blocks, ranks.mean(0)[1:], style)
    if "shortcuts" in name:
        grown = np.diff(variances, axis=1) / variances[:, 1:]
        share.plot(blocks, grown.mean(0), style)
for rows, style in zip(learnt.values(), ("C3o-", "C0o-"), strict=True):
    learning.semilogx(RATES, rows, style, lw=1, ms=4)
share.plot(blocks, 1 / (blocks + 1), "C2:", label="1/(l + 1)")
gradient.set(title="Gradient before training", xlabel="block", ylabel="over the last block's")
rank.set(title="Effective rank of a batch", xlabel="block", ylabel="directions", ylim=(0, None))
share.set(title="The branch's share", xlabel="block l", ylabel="of the variance", ylim=(0, 1))
learning.set(title="After 150 steps", xlabel="learning rate", ylabel="test accuracy", ylim=(0, 1))
share.legend()
fig.legend(*gradient.get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# First what holds before training, then the accuracies.

growth = {name: gradients[:, 0] / gradients[:, -1] for name, (gradients, _, _) in found.items()}
for name, (_, _, ranks) in found.items():
    print(f"{name:22} gradient, first over last {growth[name].mean():8.3g};", end=" ")
    print(f"effective rank of what leaves the last block {ranks[:, -1].mean():.1f}")
claim("exploded", growth["batch norm"], "gradient, first over last", above=200, below=20000)
claim("residual", growth["batch norm, shortcuts"], "the same with shortcuts", above=1, below=20)
predicted = np.sqrt(np.pi / (np.pi - 1))
per_layer = growth["batch norm"] ** (1 / (DEPTH - 1))
assert np.allclose(per_layer, predicted, rtol=0.06), "1.21 per layer, as the formula says"
variances = found["batch norm, shortcuts"][1].mean(0)
grown = np.diff(variances)[4:] / variances[5:]
assert np.allclose(grown * (blocks[4:] + 1), 1, atol=0.35), "the branch's share is 1/(l + 1)"
doubled = found["no norm, shortcuts"][1].mean(0)
assert np.allclose(doubled[-1] / doubled[0], 2.0**DEPTH, rtol=0.9), "without norm it is one half"
apart, alike = (found[name][2][:, -1] for name in ("batch norm", "no norm"))
assert apart.min() > 3 * alike.max(), "batch norm keeps the images of a batch apart"

# %%

for name, rows in learnt.items():
    print(f"{name:22} test accuracy at rates {RATES}: {rows.mean(1).round(3)}")
plain, residual = (rows[rows.mean(1).argmax()] for rows in learnt.values())
claim("plain_learns", plain, "test accuracy at its best rate, plain", above=0.1, of="mean")
claim(
    "residual_learns", residual, "test accuracy at its best rate, shortcuts", above=0.8, of="mean"
)
assert residual.min() > plain.max(), "with every seed the shortcuts are better"
