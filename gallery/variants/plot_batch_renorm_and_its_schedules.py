"""
Batch renorm helps small and sorted batches, and not large ones
===============================================================

Batch renorm corrects what a batch is normalized by, in training, towards the moving averages that
inference uses. That helps where the two differ. In batches of 16 images of two classes a network
with batch renorm classifies :claim:`84 % <renorm_two>` of the test digits correctly, and with batch
norm :claim:`77 % <norm_two>`. In batches of 4 mixed images it gains
:claim:`3 to 8 points <gain_four>`; in batches of 64 the two differ by
:claim:`0.3 points <gain_64>`. The limits of the correction may be wide open from the first step if
the average is fast; with a slow average that costs :claim:`8 points <open_slow>`.

.. symptom:: test accuracy near chance
   :cause: each batch holds few classes, and its statistics tell them
   :check: how many classes has a batch? shuffle and train again
   :likelihood: sometimes
   :question: 1
"""

# %%
# Check
# -----
# ``share_of_classes`` compares the classes of your batches with those of shuffled ones: 1 in mixed
# batches, to within 0.1. ``y`` are the labels in the order in which you train.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim

# %%


def classes_of_a_batch(y, size):
    batches = y[: len(y) // size * size].reshape(-1, size)
    return np.mean([len(set(batch)) for batch in batches])


def share_of_classes(y, size):
    shuffled = np.random.default_rng(0).permutation(y)
    return classes_of_a_batch(y, size) / classes_of_a_batch(shuffled, size)


# %%
# Fix
# ---
# Mix sorted batches, if you can; mixed batches of 64 need nothing else. Or take renorm, with limits
# by your number of steps (here 220), and a memory 1/(1 − momentum) of far fewer.
#
# Wrong
# ^^^^^


def norm():
    return bnref.BatchNorm(momentum=0.95)


# %%
# Right
# ^^^^^


def renorm():
    return bnref.BatchRenorm(
        momentum=0.95,
        r_max=((40, 1), (160, 3)),
        d_max=((40, 0), (120, 5)),
    )


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics): those of two classes, or of four images, normalize
# in training, and inference uses those of all. Renorm mends it at question 3 (used when). With
# r = σ_B/σ_P and d = (μ_B − μ_P)/σ_P (Ioffe 2017, arXiv 1702.03275, Algorithm 1) it gives
#
# .. math:: y = \gamma\left(\frac{x - \mu_B}{\sigma_B} r + d\right) + \beta.
#
# Unclipped, that is normalized by the population. Yet r and d count as constants, and the gradient
# passes through the batch's statistics. They are clipped to [1/r_max, r_max] and ±d_max; at limits
# of 1 and 0 the layer is batch norm. The paper opens them after 5,000 steps (section 4).
#
# The evidence is one network on one data set, 220 steps and few seeds, where a batch is all that an
# update sees. For larger updates over several replicas: :doc:`plot_batch_size_per_replica`.
#
# Experiment
# ----------
# A fast average has a momentum of 0.95, a slow one of 0.99. The schedule opens the limits from step
# 40 on; they are open from the start where they are 1,000.


def renorm_with(momentum, r_max=((40, 1), (160, 3)), d_max=((40, 0), (120, 5))):
    return lambda: bnref.BatchRenorm(momentum=momentum, r_max=r_max, d_max=d_max)


ARMS = {"batch norm": norm, "schedule, fast": renorm}
ARMS["open, fast"] = renorm_with(0.95, r_max=1e3, d_max=1e3)
ARMS["schedule, slow"] = renorm_with(0.99)
ARMS["open, slow"] = renorm_with(0.99, r_max=1e3, d_max=1e3)
data = datasets.load("mnist").take(train=4000, test=1000)


# %%


def batches(size, classes, seed):
    """The numbers of the images of 220 batches, each with so many classes."""
    random, epochs = np.random.default_rng(seed), []
    for _ in range(4):
        order = random.permutation(4000 // size * size)
        if classes == 2:
            order = order[np.argsort(data.y_train[order])]
            order = random.permutation(order.reshape(-1, size // 2))
        epochs.append(order.reshape(-1, size))
    return np.concatenate(epochs)[:220]


def clipped(model, x):
    """The shares of r and d of the first norm that its limits clip."""
    flat, dense, layer = model.layers[:3]
    h = np.reshape(dense(flat(x.reshape(-1, 28, 28, 1))), (*x.shape[:2], -1))
    variance = layer.moving_variance + layer.epsilon
    r = np.log((h.var(1) + layer.epsilon) / variance) / 2
    d = (h.mean(1) - layer.moving_mean) / np.sqrt(variance)
    of_r = np.mean(np.abs(r) > np.log(layer.r_max(layer.steps)))
    return of_r, np.mean(np.abs(d) > layer.d_max(layer.steps))


# %%
# Each network is traced once, 20 steps at a time, and its weights are set anew for each seed.


def steps_of(model):
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    weights = model.trainable_variables

    @tf.function
    def steps(x, y):
        loss = 0.0
        for k in tf.range(20):
            with tf.GradientTape() as tape:
                losses = cross_entropy(y[k], model(x[k], training=True))
                loss = tf.reduce_mean(losses)
            optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        return loss

    return steps


# %%


def trained(norm, size, classes, seeds):
    """Accuracy, loss, and shares of r and d, every 20 steps; shape (seeds, 12, 4)."""
    network = partial(models.perceptron, norm, inputs=(28, 28, 1), units=(64, 64))
    model, rows = network(), []
    steps, predict = steps_of(model), tf.function(partial(model, training=False))
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        model.set_weights(network().get_weights())
        order, loss = batches(size, classes, seed), np.nan
        for step in range(0, 221, 20):
            accuracy = np.mean(np.argmax(predict(data.x_test), -1) == data.y_test)
            shares = clipped(model, data.x_train[order[:50]]) if norm is renorm else (0, 0)
            rows.append([accuracy, loss, *shares])
            index = order[step : step + 20]
            loss = steps(data.x_train[index], data.y_train[index]) if step < 220 else loss
    return np.reshape(rows, (len(seeds), 12, 4))


seeds = range(scale.at_scale(quick=3, full=10))
kinds = {"4 mixed": (4, 10, 2), "16, two classes": (16, 2, 5), "64 mixed": (64, 10, 2)}
runs = {}
for kind, (size, classes, count) in kinds.items():
    for arm in list(ARMS)[:count]:
        runs[kind, arm] = trained(ARMS[arm], size, classes, seeds)

# %%

fig, axes = plt.subplots(2, 2, figsize=(6.2, 5.4), layout="constrained")
steps = np.arange(0, 221, 20)
panels = dict(zip(kinds, axes.flat, strict=False))
colours = dict(zip(ARMS, ("C4", "C0", "C2", "C3", "C1"), strict=True))
for (kind, arm), histories in runs.items():
    values = histories[..., 0]
    ax = panels[kind]
    ax.plot(steps, values.mean(0), colours[arm], label=arm)
    ax.fill_between(steps, values.min(0), values.max(0), color=colours[arm], alpha=0.15, lw=0)
    ax.set(title=f"Batches of {kind}", ylim=(0.4, 1), xlabel="step", ylabel="test accuracy")
fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
shares = runs["4 mixed", "schedule, fast"][..., 2:].mean(0)
axes[1, 1].plot(steps, shares, label=["r", "d"])
axes[1, 1].set(title="Schedule, batches of 4 mixed", xlabel="step", ylabel="share clipped")
axes[1, 1].legend()
plt.show()

# %%
# Proof
# -----
# The accuracies are means of the last three tests.

last = {}
for key, histories in runs.items():
    last[key] = histories[:, -3:, 0].mean(1)
    print(*key, last[key].round(3), sep="; ")
four, two, large = ({arm: last[kind, arm] for arm in ARMS if (kind, arm) in last} for kind in kinds)
claim("renorm_two", two["schedule, fast"], "accuracy, two classes, renorm", above=0.8, of="mean")
claim("norm_two", two["batch norm"], "the same, batch norm", above=0.5, below=0.85, of="mean")
assert (two["schedule, fast"] - two["batch norm"]).mean() > 0.03, "it gains in sorted batches"
gain = four["schedule, fast"] - four["batch norm"]
claim("gain_four", gain, "gain in batches of 4", above=0.01, of="mean")
gain = large["schedule, fast"] - large["batch norm"]
claim("gain_64", abs(gain), "difference in batches of 64", below=0.02, of="mean")
assert abs((two["open, fast"] - two["schedule, fast"]).mean()) < 0.03, "fast: open is no worse"
loss = two["schedule, slow"] - two["open, slow"]
claim("open_slow", loss, "what open limits cost with a slow average", above=0.03, of="mean")
assert (two["open, fast"] - two["open, slow"]).mean() > 0.03, "a fast one has nothing of that"
closed = trained(renorm_with(0.95, r_max=1, d_max=0), 4, 10, range(1))[0, 1:, 1]
plain = runs["4 mixed", "batch norm"][0, 1:, 1]
assert np.allclose(closed, plain, rtol=1e-2), "closed, it is batch norm"
sorted_labels, mixed = (data.y_train[batches(16, n, 0)].ravel() for n in (2, 10))
assert share_of_classes(sorted_labels, 16) < 0.5, "the check finds batches of two classes"
assert abs(share_of_classes(mixed, 16) - 1) < 0.1, "and is silent on mixed ones"
