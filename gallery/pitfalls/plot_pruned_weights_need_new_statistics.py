"""
Pruned or quantized weights need new statistics
===============================================

Set the smallest 60 % of a network's weights to 0, and its test accuracy falls from
:claim:`96 % <before>` to :claim:`72 % <pruned>`. Not all of that is due to the missing weights: the
moving statistics are still those of the old weights. Recomputed on 1,024 training images, without a
step of training, the accuracy is :claim:`83 % <pruned_recomputed>`. With weights rounded to 3 bits
it is :claim:`90 % <rounded>` by the old statistics, and :claim:`95 % <rounded_recomputed>` by new
ones.

.. symptom:: test accuracy near chance
   :cause: pruned or quantized weights with the statistics of the weights before
   :check: compare the loss before and after ``bnref.population.recompute(model, batches)``
   :likelihood: seldom
   :question: 2

.. symptom:: the saved model predicts differently
   :cause: the weights were pruned, quantized or merged after the statistics were remembered
   :check: compare the loss before and after ``bnref.population.recompute(model, batches)``
   :likelihood: sometimes
   :question: 2
"""

# %%
# Check
# -----
# Recompute the statistics, and compare. ``loss(model)`` is your validation loss; the statistics are
# put back.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import population, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def gained_by_recomputing(model, batches, loss):
    """By how much the loss falls with new statistics; the model stays as it is."""
    weights, before = model.get_weights(), loss(model)
    population.recompute(model, batches)
    after = loss(model)
    model.set_weights(weights)
    return before - after


# %%
# Fix
# ---
# Change the weights, then recompute. Some hundred images without labels suffice. Fine-tuning, where
# it is done, does it by itself, as it moves the statistics too.
#
# Wrong
# ^^^^^


def compressed(model, change, batches):
    change(model)


# %%
# Right
# ^^^^^


def compressed_and_recomputed(model, change, batches):
    change(model)
    population.recompute(model, batches)


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how): what is remembered is of other weights. Pruned, a
# layer's outputs have a smaller variance, so that its norm divides by too much, and so do the
# layers behind it, each on top of the one before. Recomputing gives every channel mean β and
# variance γ² again. What is left is what the weights have lost.
#
# The same holds for weights that are averaged
# (:doc:`/gallery/pitfalls/plot_averaged_weights_need_their_own_statistics`) or merged from several
# networks (Jordan et al. 2022, `arXiv 2211.08403 <https://arxiv.org/abs/2211.08403>`_, who call it
# REPAIR), and for sub-networks that share weights: `mit-han-lab/once-for-all#15
# <https://github.com/mit-han-lab/once-for-all/issues/15>`_, `open-mmlab/mmrazor#75
# <https://github.com/open-mmlab/mmrazor/issues/75>`_. `openvinotoolkit/nncf#41
# <https://github.com/openvinotoolkit/nncf/pull/41>`_ reports the same of quantization, on ImageNet.
#
# Experiment
# ----------
# A small convolutional network on digits of half the width and height, for speed.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
SHARES, BITS = (0, 0.2, 0.4, 0.6, 0.8), (8, 5, 4, 3, 2)
few_batches = np.split(x_train[:1024], 4)


def kernels(model):
    return [each for each in model.trainable_variables if each.name == "kernel"]


def prune(model, share):
    """Set the smallest weights of each kernel to 0, such a share of them."""
    for kernel in kernels(model):
        values = kernel.numpy()
        kernel.assign(np.where(np.abs(values) < np.quantile(np.abs(values), share), 0, values))


def quantize(model, bits):
    """Round each kernel to 2**bits - 1 values, evenly spaced and symmetric about 0."""
    for kernel in kernels(model):
        values = kernel.numpy()
        spacing = np.abs(values).max() / (2 ** (bits - 1) - 1)
        kernel.assign(np.round(values / spacing) * spacing)


# %%
# One network for all seeds, each time with new weights.

network = partial(
    models.three_convolutions, partial(bnref.BatchNorm, momentum=0.9),
    image_shape=(14, 14, 1), filters=(16, 32, 64),
)  # fmt: skip
model = network()
rate = keras.optimizers.schedules.CosineDecay(0.01, 200)
run = training.Run(model, keras.optimizers.Adam(rate))


def tested(model=model):
    return run.evaluate(x_test, data.y_test)


def accuracies(changes):
    """Test accuracies, a row a change: with old statistics, and with new ones."""
    weights, rows = model.get_weights(), []
    for change in changes:
        row = []
        for compress in (compressed, compressed_and_recomputed):
            compress(model, change, few_batches)
            row.append(tested()[1])
            model.set_weights(weights)
        rows.append(row)
    return rows


def compared(seed):
    restart(model, run.optimizer, network, seed=seed)
    run.train(x_train, data.y_train, steps=200, batch_size=64, seed=seed)
    pruned = accuracies([partial(prune, share=share) for share in SHARES])
    rounded = accuracies([partial(quantize, bits=bits) for bits in BITS])
    return pruned, rounded


pairs = [compared(seed) for seed in range(scale.at_scale(quick=3, full=10))]
pruned, rounded = (np.array(each) for each in zip(*pairs, strict=True))

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.6), layout="constrained", sharey=True)
for ax, places, rows in ((left, 100 * np.array(SHARES), pruned), (right, BITS, rounded)):
    for k, style in enumerate(("C1X-", "C0o-")):
        ax.plot(places, rows[..., k].mean(0), style)
        ax.fill_between(
            places, rows[..., k].min(0), rows[..., k].max(0), color=style[:2], alpha=0.2
        )
left.plot([], [], "C1X-", label="statistics of the old weights")
left.plot([], [], "C0o-", label="recomputed on 1,024 images")
left.set(title="Pruned", xlabel="weights set to 0, %", ylabel="test accuracy", ylim=(0, 1))
right.set(title="Rounded", xlabel="bits", xlim=(8.3, 1.7), xticks=BITS)
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# Accuracies with old and with new statistics.

for name, places, rows in (("pruned", SHARES, pruned), ("bits", BITS, rounded)):
    for place, pair in zip(places, rows.mean(0), strict=True):
        print(f"{name:7}{place:4}  old statistics {pair[0]:.3f}, recomputed {pair[1]:.3f}")
claim("before", pruned[:, 0, 0], "test accuracy before", above=0.85)
claim("pruned", pruned[:, 3, 0], "60 % pruned, old statistics", below=0.85, of="mean")
claim("pruned_recomputed", pruned[:, 3, 1], "60 % pruned, recomputed", above=0.5)
claim("rounded", rounded[:, 3, 0], "3 bits, old statistics", below=0.95, of="mean")
claim("rounded_recomputed", rounded[:, 3, 1], "3 bits, recomputed", above=0.8)
for rows, name, gain in ((pruned, "pruned", 0.05), (rounded, "rounded", 0.02)):
    gained = rows[:, 3, 1] - rows[:, 3, 0]
    lost = rows[:, 0, 0] - rows[:, 3, 0]
    assert gained.mean() > gain, f"{name}: recomputing helps"
    assert gained.min() > -0.05, f"{name}: and no seed loses much by it"
    assert gained.mean() > 0.25 * lost.mean(), f"{name}: a quarter of what was lost, or more"
untouched = np.abs(pruned[:, 0, 1] - pruned[:, 0, 0])
assert untouched.max() < 0.03, "weights that were left alone gain nothing"

# %%
# The check on the last network, before and after.

prune(model, 0.6)
wrong = gained_by_recomputing(model, few_batches, lambda each: tested()[0])
population.recompute(model, few_batches)
right = gained_by_recomputing(model, few_batches, lambda each: tested()[0])
print(f"the loss falls by {wrong:.3f} with new statistics, and then by {right:.5f}")
assert wrong > 0.1, "the check fires on old statistics"
assert abs(right) < 1e-4, "and not on new ones"
