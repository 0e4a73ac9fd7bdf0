"""
The moving average lags or it trembles
======================================

A moving average of momentum ρ, the weight of the old value, lags ρ/(1 − ρ) steps behind what it
follows, and keeps √((1 − ρ)/(1 + ρ)) of the noise of one batch. At ρ = 0.9 that is
:claim:`9.0 steps <lag>` and :claim:`23 % <noise>`, at 0.99 it is 99 steps and 7 %. It also keeps
its start with the weight ρᵗ: at 0.99 still :claim:`37 % <left>` after 100 steps. In a small network
the test loss of the first 130 steps is :claim:`63 % <early>` higher with 0.99 than with 0.9; at the
end it jumps :claim:`2.9 times <jumps>` as far with 0.9, from test to test.

.. symptom:: validation far worse than training
   :doctor: few_steps
   :check: does the test change with :func:`bnref.population.recompute`?

.. symptom:: validation jumps
   :doctor: trembling_average
   :check: does the test jump as much with momentum 0.999?
"""

# %%
# Check
# -----
# The first check is for models that were trained for few steps. Give both batches as in training.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# With fewer than 5/(1 − ρ) steps before the first test, take the debiased average or a smaller ρ.
# Where tests jump, take a larger ρ, or let the learning rate fall to 0: then it hardly matters in
# the end. The mean of all, ``bnref.CumulativeBatchNorm``, is for weights that stand still.
#
# Wrong
# ^^^^^


def norm_that_lags():
    return keras.layers.BatchNormalization()  # 0.99


# %%
# Right
# ^^^^^


def norm_without_start():
    return bnref.DebiasedBatchNorm(momentum=0.99)


# %%
# Wrong, tests that jump
# ^^^^^^^^^^^^^^^^^^^^^^


def norm_that_trembles():
    return keras.layers.BatchNormalization(momentum=0.9)


# %%
# Right, tests that jump
# ^^^^^^^^^^^^^^^^^^^^^^


def norm_that_is_calm():
    return keras.layers.BatchNormalization(momentum=0.99)


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how): the moving averages of Ioffe & Szegedy 2015, arXiv
# 1502.03167, section 3.1, are of a network that still changes. Let the mean of a batch have the
# variance v, around a mean that rises by s a step. After t steps:
#
# - exponential: lag s·ρ/(1 − ρ), noise v·(1 − ρ)/(1 + ρ), and ρᵗ of the start at 0;
# - debiased: lag s·[ρ/(1 − ρ) − tρᵗ/(1 − ρᵗ)], noise v·(1 − ρ)/(1 + ρ)·(1 + ρᵗ)/(1 − ρᵗ);
# - cumulative: lag s·(t − 1)/2, noise v/t.
#
# Met in `keras-team/keras#10666 <https://github.com/keras-team/keras/issues/10666>`_ (jumps),
# `pytorch/pytorch#4741 <https://github.com/pytorch/pytorch/issues/4741>`_ (lag) and
# `tensorflow/tensorflow#2825 <https://github.com/tensorflow/tensorflow/issues/2825>`_ (the start).
#
# Experiment
# ----------
# One layer of each kind, of 1,000 channels; batches of 16, whose mean rises from 2 by 0.01 a step.

KINDS = {
    "exponential 0.9": norm_that_trembles,
    "exponential 0.99": norm_that_is_calm,
    "debiased 0.99": norm_without_start,
    "cumulative": bnref.CumulativeBatchNorm,
}
s, t = 0.01, np.arange(1, 401)


def predicted_debiased(rho):
    """Error of the average, and its noise in that of one batch's mean."""
    kept = rho**t
    lag = s * (rho / (1 - rho) - t * kept / (1 - kept))
    noise = np.sqrt((1 - rho) / (1 + rho) * (1 + kept) / (1 - kept))
    return -lag, noise


def predicted_exponential(rho):
    kept, (error, noise) = rho**t, predicted_debiased(rho)
    return (1 - kept) * error - kept * (2 + s * t), (1 - kept) * noise


theory = [predicted_exponential(0.9), predicted_exponential(0.99), predicted_debiased(0.99)]
theory = np.swapaxes([*theory, (-s * (t - 1) / 2, t**-0.5)], 0, 1)  # error and noise, kinds, steps

# %%

layers = [kind() for kind in KINDS.values()]
draw = tf.random.Generator.from_seed(0).normal


@tf.function
def step(mean):
    x = draw((16, 1000), mean)
    for layer in layers:
        layer(x, training=True)
    return [layer.moving_mean - mean for layer in layers]


errors = np.array([step(tf.constant(2 + s * k, tf.float32)) for k in t])  # (steps, kinds, 1000)
measured = np.array([errors.mean(2).T, errors.std(2).T * np.sqrt(16)])

# %%
# In networks, in batches of 4: all of a seed have the same weights, as training reads no average.

data = datasets.load("mnist").take(train=4000, test=1000)


def network(kind):
    return models.perceptron(kind, inputs=(28, 28, 1), units=(64, 64))


def test_losses(kind):
    """Every 10 of 400 steps, a row a seed."""
    rate = keras.optimizers.schedules.CosineDecay(0.03, 400)
    run, rows = training.Run(network(kind), keras.optimizers.SGD(rate, momentum=0.9)), []
    options = {"steps": 400, "batch_size": 4, "every": 10}
    options["measure"] = lambda run: {"test": run.evaluate(data.x_test, data.y_test)[0]}
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(run.model, run.optimizer, partial(network, kind), seed=seed)
        rows.append(run.train(data.x_train, data.y_train, seed=seed, **options)["test"])
    return np.array(rows)


losses = {name: test_losses(kind) for name, kind in KINDS.items()}

# %%

fig, axes = plt.subplots(2, 2, figsize=(6.2, 5.6), layout="constrained")
fig.suptitle("Lag and noise of moving averages")
steps = np.arange(0, 401, 10)
for i, (name, colour) in enumerate(zip(KINDS, ("C2", "C1", "C0", "C3"), strict=True)):
    for k in (0, 1):
        axes[0, k].plot(t, theory[k, i], colour, lw=1, label=name)
        axes[0, k].plot(t[::25], measured[k, i, ::25], colour + "o", ms=4)
    rows = losses[name]
    axes[1, 0].plot(steps, rows.mean(0), colour, lw=1.2)
    axes[1, 0].fill_between(steps, rows.min(0), rows.max(0), color=colour, alpha=0.12)
    axes[1, 1].plot(steps[30:], rows[0, 30:], colour, lw=1.2)
axes[0, 0].set(title="One layer", xlabel="step", ylabel="error of the mean")
axes[0, 1].set(title="One layer", xlabel="step", ylabel="share of the noise", yscale="log")
axes[1, 0].set(title="A network", xlabel="step", ylabel="test loss")
axes[1, 1].set(title="The end of one seed", xlabel="step", ylabel="test loss")
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# The layers against the formulas.

assert np.abs(measured[0] - theory[0]).max() < 0.03, "the errors are those of the formulas"
assert np.abs(measured[1] / theory[1] - 1).max() < 0.15, "and so is the noise"
settled = measured[:, 0, 200:].mean(1)  # of ρ = 0.9, once its start is gone
claim("lag", -settled[0] / s, "steps behind, at 0.9", above=8.5, below=9.5)
claim("noise", settled[1], "share of one batch's noise, at 0.9", above=0.22, below=0.24)
of_start = 2 + s * t[99] + measured[0, 1:3, 99]  # exponential and debiased
left = 1 - of_start[0] / of_start[1]
claim("left", left, "weight of the start after 100 steps, at 0.99", above=0.36, below=0.37)
assert np.allclose([0.99 / 0.01, (0.01 / 1.99) ** 0.5], [99, 0.07], atol=0.005), "and at 0.99"

# %%
# The networks.

early = {name: rows[:, 2:14].mean(1) for name, rows in losses.items()}
late = {name: rows[:, -8:].mean(1) for name, rows in losses.items()}
jumps = {name: np.abs(np.diff(rows[:, -8:])).mean(1) for name, rows in losses.items()}
print("test loss early, late, and its jumps late:", early, late, jumps, sep="\n")
fast, slow, debiased, cumulative = KINDS
claim("early", early[slow] / early[fast] - 1, "early, 0.99 over 0.9", above=0.3, of="mean")
assert np.mean(early[slow]) > 1.2 * np.mean(early[debiased]), "a good part of it is the start"
assert np.mean(early[cumulative]) > 1.1 * np.mean(early[fast]), "the mean of all lags too"
times = jumps[fast].mean() / max(jumps[name].mean() for name in KINDS if name != fast)
claim("jumps", times, "how far 0.9 jumps late, over the next", above=1.5)
means = [each.mean() for each in late.values()]
assert max(means) < 1.2 * min(means), "in the end all four are within 20 %"


# %%
# The doctor.


def trained(kind):
    keras.utils.set_random_seed(0)
    model = network(kind)
    sgd = keras.optimizers.SGD(0.03, momentum=0.9)
    training.train(model, data.x_train, data.y_train, steps=100, batch_size=32, optimizer=sgd)
    return model


def found(model, cause, size):
    some = data.x_train[:512], data.y_train[:512]
    report = doctor.examine(model, some, batch_size=size, only=[cause])
    return [finding.evidence for finding in report.findings]


lagging = trained(norm_that_lags)
trembling, calm = network(partial(bnref.BatchNorm, momentum=0.6)), network(norm_that_is_calm)
print("the doctor:", *found(lagging, "few_steps", 32), *found(trembling, "trembling_average", 4))
assert found(lagging, "few_steps", 32), "the check fires after 100 steps at 0.99"
assert not found(trained(norm_without_start), "few_steps", 32), "and is silent where it is debiased"
assert found(trembling, "trembling_average", 4), "the other fires at momentum 0.6"
assert not found(calm, "trembling_average", 4), "and is silent at 0.99"
