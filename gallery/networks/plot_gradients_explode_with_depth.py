"""
Batch norm makes the gradients of a deep network explode, unless it has shortcuts
=================================================================================

Before the first step, the gradient of a plain network of 40 layers with batch norm is
:claim:`1700 times <exploded>` as large at its first layer as at its last one. No learning rate
suits both, and no initialization helps. With a shortcut around each layer it is
:claim:`13 times <residual>` as large. There is another side: without batch norm all images come to
look the same with depth, in :claim:`1.0 <rank_without>` direction of 64; with it they keep
:claim:`5 <rank_with>`.

.. symptom:: no better than without batch norm
   :cause: many plain layers, each with batch norm: gradients grow with depth
   :check: compare the gradients of the first layers with those of the last, relative to the weights
   :likelihood: seldom
   :question: none

.. symptom:: NaN or infinity
   :cause: many plain layers, each with batch norm: the first gradients are too large
   :check: compare the gradients of the first layers with those of the last, relative to the weights
   :likelihood: seldom
   :question: none
"""

# %%
# Check
# -----
# How long is the gradient of each kernel of your model, as a share of the kernel? Where the first
# layers' shares are a hundred times those of the last ones, no learning rate suits both.

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import functional
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim


def relative_gradients(model, x, y, loss):
    """The length of each kernel's gradient over that of the kernel, from first to last layer."""
    kernels = [each.value for each in model.trainable_variables if each.name == "kernel"]
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss(y, model(x, training=True)))
    shares = []
    for gradient, kernel in zip(tape.gradient(value, kernels), kernels, strict=True):
        shares.append(float(tf.norm(gradient) / tf.norm(kernel)))
    return shares


# %%
# Fix
# ---
# Add the input of each block to what it computes. If the last γ of each branch begins at 0, each
# block is the identity at first.
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
# No statistic is wrong here; it is what the division by σ does. Let a layer be
# ``dense(relu(norm(x)))``. The values behind the norm have variance 1. A ReLU leaves variance
# (π − 1)/2π of a normal distribution, and lets half of the squared gradient pass. The next norm
# divides by the deviation of what arrives. Whatever the size of the weights, the square of the
# gradient's length therefore grows per layer, backwards, by
#
# .. math:: \frac{1/2}{(\pi - 1) / 2\pi} = \frac{\pi}{\pi - 1} = 1.47 ,
#
# its length by 1.21, and over 39 layers by 1,800 (Yang et al. 2019, arXiv 1902.08129, for large
# batches). With a shortcut the variance of x grows by one and the same amount in each block: the
# branch's share is 1/(l + 1) in block l, and the gradient grows like a power of the depth (De &
# Smith 2020, arXiv 2002.10444). Without batch norm each block doubles the variance, and the
# branch's share is one half at any depth. That the values of a batch become alike without norms,
# and stay apart with them, is shown by Daneshmand et al. 2020, arXiv 2003.01652.
#
# Experiment
# ----------
# Four networks of 40 layers of 64 units, with weights as He et al. draw them, and 256 digits.

DEPTH, WIDTH, SEEDS = 40, 64, range(scale.at_scale(quick=5, full=20))
data = datasets.load("mnist").take(train=256, test=1)
images = tf.constant(data.x_train[:, ::2, ::2].reshape(256, 196))


def normalized(x):
    ones, zeros = tf.ones(WIDTH), tf.zeros(WIDTH)
    return functional.normalize(x, functional.moments(x), ones, zeros, epsilon=1e-3)


def passed(block, norm, weights):
    """What enters each block, and what leaves the last."""
    states = [images @ weights[0]]
    for kernel in weights[1:]:
        branch = lambda x, kernel=kernel: tf.nn.relu(norm(x)) @ kernel  # noqa: E731
        states.append(block(states[-1], branch))
    return states


def effective_rank(values):
    """Of how many directions of equal size the values of a batch could be made."""
    shares = np.linalg.svd(values, compute_uv=False) ** 2
    return np.sum(shares) ** 2 / np.sum(shares**2)


# %%
# Gradients are those of a random function of the outputs.


def at_the_start(block, norm):
    """By seed and block: length of the gradient over the weights', variance, effective rank."""
    rows = []
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        shapes = [(196, WIDTH)] + [(WIDTH, WIDTH)] * DEPTH
        weights = [random.standard_normal(each) * np.sqrt(2 / each[0]) for each in shapes]
        weights = [tf.Variable(each.astype("float32")) for each in weights]
        direction = random.standard_normal((256, WIDTH)).astype("float32")
        with tf.GradientTape() as tape:
            states = passed(block, norm, weights)
            loss = tf.reduce_mean(direction * norm(states[-1]))
        gradients = tape.gradient(loss, weights[1:])
        lengths = [tf.norm(each) / tf.norm(kernel)
                   for each, kernel in zip(gradients, weights[1:], strict=True)]  # fmt: skip
        variances = [np.var(each, axis=0).mean() for each in states]
        rows.append((lengths, variances[1:], [effective_rank(each) for each in states[1:]]))
    return np.array(rows, "float64")


NETWORKS = {
    "batch norm": (plain_block, normalized),
    "batch norm, shortcuts": (residual_block, normalized),
    "no norm": (plain_block, tf.identity),
    "no norm, shortcuts": (residual_block, tf.identity),
}
found = {name: at_the_start(*each) for name, each in NETWORKS.items()}

# %%

fig, axes = plt.subplots(1, 3, figsize=(6.2, 3.4), layout="constrained")
blocks = np.arange(1, DEPTH + 1)
for (name, rows), style in zip(found.items(), ("C3-", "C0-", "C1--", "C4--"), strict=True):
    lengths, variances, ranks = rows.mean(0)
    axes[0].semilogy(blocks, lengths / lengths[-1], style, label=name)
    axes[1].plot(blocks, ranks, style)
    if "shortcuts" in name:
        axes[2].plot(blocks[1:], np.diff(variances) / variances[1:], style)
axes[2].plot(blocks, 1 / (blocks + 1), "C2:", label="1/(l + 1)")
axes[0].set(title="Gradient", xlabel="block", ylabel="over that of the last block")
axes[1].set(title="Effective rank", xlabel="block", ylabel="directions", ylim=(0, None))
axes[2].set(title="Share of the branch", xlabel="block l", ylabel="of the variance", ylim=(0, 1))
axes[2].legend()
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# Growth, ranks and shares; and the check on small models of Keras.

for name, rows in found.items():
    growth, rank = rows[:, 0, 0] / rows[:, 0, -1], rows[:, 2, -1]
    print(f"{name:22} gradient, first over last {growth.mean():9.3g}, rank {rank.mean():.2f}")
growth = {name: rows[:, 0, 0] / rows[:, 0, -1] for name, rows in found.items()}
claim("exploded", growth["batch norm"], "gradient, first over last layer", above=200, below=20000)
claim("residual", growth["batch norm, shortcuts"], "the same, shortcuts", above=1, below=20)
per_layer = growth["batch norm"] ** (1 / (DEPTH - 1))
assert np.allclose(per_layer, np.sqrt(np.pi / (np.pi - 1)), rtol=0.05), "1.21 a layer"
claim("rank_with", found["batch norm"][:, 2, -1], "effective rank, batch norm", above=3)
claim("rank_without", found["no norm"][:, 2, -1], "effective rank, no norm", below=2)
variances = found["batch norm, shortcuts"][:, 1].mean(0)
shares = np.diff(variances) / variances[1:] * (blocks[1:] + 1)
assert np.allclose(shares[3:], 1, atol=0.35), "the branch's share is 1/(l + 1)"
doubled = found["no norm, shortcuts"][:, 1].mean(0)
assert np.allclose(doubled[1:] / doubled[:-1], 2, rtol=0.5), "without norm it is one half"


def first_over_last(block):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((196,))
    x = keras.layers.Dense(WIDTH)(inputs)
    for _ in range(16):
        layers = [keras.layers.BatchNormalization(), keras.layers.ReLU(), keras.layers.Dense(WIDTH)]
        x = block(x, keras.Sequential(layers))
    model = keras.Model(inputs, x)
    loss = keras.losses.sparse_categorical_crossentropy
    shares = relative_gradients(model, images, data.y_train, lambda y, z: loss(y, z, True))
    return shares[1] / shares[-1]


plain, residual = first_over_last(plain_block), first_over_last(residual_block)
print(f"the check, 16 blocks: {plain:.1f} without shortcuts, {residual:.1f} with them")
assert plain > 1.8 * residual, "the check tells them apart"
