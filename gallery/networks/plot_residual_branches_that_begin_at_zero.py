"""
Without batch norm a residual network learns if its branches begin at zero
==========================================================================

Take batch norm out of a residual network of 16 blocks, and it stops learning: at its better one of
two learning rates its test accuracy is :claim:`29 % <none_best>`. Each block doubles the variance,
and the loss begins at :claim:`180 <none_loss>`. With one trained number behind each branch that
begins at 0 (SkipInit), it comes to :claim:`87 % <skip_best>`; the network with batch norm comes to
:claim:`89 % <norm_best>`. They are not always so near: in one pass over CIFAR-10 a network of 20
layers has :claim:`47 % <cifar_norm>` with batch norm, :claim:`28 % <cifar_skip>` with SkipInit, and
:claim:`20 % <cifar_none>` with neither.

.. symptom:: NaN or infinity
   :cause: a residual network without norms, whose branches begin as large as their shortcuts
   :check: ``growth(model, x)`` of the page's check is near 2 in each of many blocks
   :likelihood: seldom
   :question: none

.. symptom:: no better than without batch norm
   :cause: the network without norms has branches that begin at zero, and needs none to be trained
   :check: compare both at their own best learning rates
   :likelihood: seldom
   :question: none
"""

# %%
# Check
# -----
# By what is the variance multiplied in each block of your network, before training? Near 1 is
# right; near 2 in each of L blocks makes 2 to the power of L.

import textwrap
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

from bnref import training
from bnref_gallery import datasets, records, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def sums_of(model):
    """A model of what each block adds up: the shortcut, and its sum with the branch."""
    sums = [each for each in model.layers if isinstance(each, keras.layers.Add)]
    return keras.Model(model.input, [(each.input[0], each.output) for each in sums])


def growth(model, x):
    """By block, the variance behind the sum over that of the shortcut."""
    pairs = sums_of(model)(x, training=True)
    return np.array([np.var(after) / np.var(shortcut) for shortcut, after in pairs])


# %%
# Fix
# ---
# End each branch with something that is 0 at first. Without norms that is one trained number; with
# norms it is the γ of the branch's last one: ``BatchNormalization(gamma_initializer="zeros")``, and
# in torchvision ``resnet50(zero_init_residual=True)``.
#
# Wrong
# ^^^^^

WIDTH, DEPTH = 64, 16


def plain_block(x):
    branch = keras.layers.ReLU()(x)
    branch = keras.layers.Dense(WIDTH, kernel_initializer="he_normal")(branch)
    return keras.layers.Add()([x, branch])


# %%
# Right
# ^^^^^


class SkipInit(keras.layers.Layer):
    def build(self, input_shape):
        self.alpha = self.add_weight(name="alpha", initializer="zeros")

    def call(self, inputs):
        return self.alpha * inputs


def block_from_zero(x):
    branch = keras.layers.ReLU()(x)
    branch = keras.layers.Dense(WIDTH, kernel_initializer="he_normal")(branch)
    return keras.layers.Add()([x, SkipInit()(branch)])


# %%
# Why
# ---
# Nothing goes wrong here; the page asks what is left to do for batch norm.
# A branch with weights as He et al. draw them gives the variance that it was given. Without norms
# the sum of shortcut and branch therefore has twice the variance, and L blocks multiply it by
#
# .. math:: 2^L = 65{,}536 \quad\text{for}\quad L = 16 .
#
# With batch norm in the branch, whatever enters it is divided by its deviation: the branch adds the
# same amount in each block, and the variance grows like L only. Block l is then nearly the
# identity, as its branch is 1/l of the whole (De & Smith 2020, arXiv 2002.10444, section 2). That
# much can be had without batch norm, and these authors call it SkipInit (section 3); Zhang et al.
# 2019, arXiv 1901.09321, came to the same by smaller first weights (Fixup). They train for many
# epochs. In a short training batch norm is ahead, as its learning rates may be larger:
# :doc:`plot_what_batch_norm_buys`.
#
# With γ = 0 in each branch's last norm both hold at first (Goyal et al. 2017, arXiv 1706.02677,
# section 5.1, for batches of 8,192 images). In the record it is as good at the best rate,
# :claim:`46 % <cifar_zero>`, and bears a rate of 0.5, at which γ = 1 loses half of that.
#
# People ask whether a ResNet works without batch norm, in `jay-mahadeokar/pynetbuilder#8
# <https://github.com/jay-mahadeokar/pynetbuilder/issues/8>`_ (the answer there: perhaps not), why
# γ should begin at zero, in `tensorpack#420 <https://github.com/tensorpack/tensorpack/issues/420>`_
# and `sonnet#185 <https://github.com/google-deepmind/sonnet/issues/185>`_, and why a ResNet without
# norms becomes NaN, in `ONI#1 <https://github.com/huangleiBuaa/ONI/issues/1>`_.
#
# Experiment
# ----------
# Sixteen blocks of 64 units on digits of 14 × 14 pixels, 150 batches of 64 by SGD.


def block_with_norm(x):
    branch = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    branch = keras.layers.Dense(WIDTH, kernel_initializer="he_normal")(branch)
    return keras.layers.Add()([x, branch])


def network(block):
    x = inputs = keras.Input((14, 14, 1))
    x = keras.layers.Dense(WIDTH)(keras.layers.Flatten()(x))
    for _ in range(DEPTH):
        x = block(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.ReLU()(x)))


SEEDS = range(scale.at_scale(quick=3, full=10))
data = datasets.load("mnist").take(train=4000, test=1000)
x, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]


def trained(block, rate):
    """By seed: growth in each block at the start, loss at the start, test accuracy at the end."""
    make = partial(network, block)
    run, rows = training.Run(make(), keras.optimizers.SGD(rate)), []
    for seed in SEEDS:
        restart(run.model, run.optimizer, make, seed=seed)
        before, _ = run.evaluate(x_test, data.y_test)
        grown = growth(run.model, x[:256])
        run.train(x, data.y_train, steps=150, batch_size=64, seed=seed, progress=False,
                  nonfinite="keep")  # fmt: skip
        _, accuracy = run.evaluate(x_test, data.y_test)
        rows.append((grown, before, accuracy))
    growths, losses, accuracies = zip(*rows, strict=True)
    return np.array(growths), np.array(losses, float), np.array(accuracies, float)


none = {rate: trained(plain_block, rate) for rate in (0.0003, 0.001)}
skip, norm = trained(block_from_zero, 0.3), trained(block_with_norm, 0.3)

# %%
# Recorded: a residual network of 20 layers on all of CIFAR-10, one pass; the first of three seeds
# has five rates, the others have the two best of them.

provenance, sweep = records.read(records.path_of("residual.csv"))
print(textwrap.fill(records.provenance_line(provenance), 95))
KINDS = ("batch norm", "zero γ", "SkipInit", "none")


def accuracies(kind):
    """By rate, the test accuracies after one pass."""
    chosen = (sweep["branches"] == kind) & (sweep["step"] > 0)
    found = {}
    for rate, accuracy in zip(sweep["rate"][chosen], sweep["accuracy"][chosen], strict=True):
        found.setdefault(float(rate), []).append(float(accuracy))
    return found


cifar = {kind: accuracies(kind) for kind in KINDS}

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.6), layout="constrained")
arms = (none[0.001], "C1-"), (skip, "C2--"), (norm, "C0-")
for rows, style in arms:
    left.semilogy(np.arange(DEPTH + 1), np.cumprod([1, *rows[0].mean(0)]), style)
for kind, style in zip(KINDS, ("C0o-", "C3s:", "C2^--", "C1x-"), strict=True):
    rates = sorted(cifar[kind])
    right.semilogx(rates, [np.mean(cifar[kind][each]) for each in rates], style, label=kind)
left.set(title="Variance before training", xlabel="block", ylabel="over that of the first input")
right.set(title="CIFAR-10, one pass", xlabel="learning rate", ylabel="test accuracy", ylim=(0, 0.6))
fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %%
# Proof
# -----
# Variances, losses and accuracies; then the recorded ones.

for rate, (_, losses, found) in none.items():
    print(f"none, rate {rate}: loss {losses.mean():.0f} at first, accuracy {found.round(3)}")
print(f"SkipInit {skip[2].round(3)}, batch norm {norm[2].round(3)}")
whole = {name: rows[0].prod(1) for name, rows in {"none": none[0.001], "norm": norm}.items()}
print("variance behind the last block, over the first input's:", whole)
assert np.allclose(none[0.001][0].mean(0), 2, rtol=0.25), "without norms each block doubles it"
assert (skip[0] == 1).all(), "with SkipInit nothing changes at first"
assert (norm[0] > 1).all() and whole["norm"].max() < 200, "with norms it grows like L"
claim("none_loss", none[0.001][1], "test loss before training, no norms", above=8, below=300)
best = np.max([found for _, _, found in none.values()], axis=0)
claim("none_best", best, "test accuracy, no norms, the best of two rates", below=0.4)
claim("skip_best", skip[2], "test accuracy, SkipInit", above=0.75)
claim("norm_best", norm[2], "test accuracy, batch norm", above=0.8)

best = {}
for kind, found in cifar.items():
    told = ", ".join(f"{rate:g}: {np.round(each, 3)}" for rate, each in sorted(found.items()))
    print(f"CIFAR-10, {kind}, by rate: {told}")
    best[kind] = max((each for each in found.values() if len(each) == 3), key=np.mean)
told = "CIFAR-10 after one pass, best rate"
claim("cifar_norm", best["batch norm"], f"{told}, batch norm", above=0.45, below=0.49)
claim("cifar_zero", best["zero γ"], f"{told}, γ = 0", above=0.44, below=0.49)
claim("cifar_skip", best["SkipInit"], f"{told}, SkipInit", above=0.25, below=0.35, of="mean")
claim("cifar_none", best["none"], f"{told}, none", above=0.1, below=0.25, of="mean")
at_half = [np.mean(cifar[kind][0.5]) for kind in ("zero γ", "batch norm")]
assert at_half[0] > 0.15 + at_half[1], "with γ = 0 it bears a rate of 0.5"
