"""
How many batches does Precise BN need?
======================================

Few: from K batches of N images the mean is off by **1/√(KN)** of a standard deviation, and with
**8 batches of 32** a small network is within two points of its accuracy with statistics of all
4,000 images. After 30 steps of training that is **more than 4 points** above the moving average;
at the end, the learning rate being 0, the two are within 2 points and Precise BN adds nothing.

The symptom: the test lags behind the training. Question 2, *remembered how*: the moving average of
:class:`bnref.layers.BatchNorm` holds statistics of weights that are gone. Precise BN takes those of
fresh batches under the present weights (Wu & Johnson 2021, arXiv 2105.07576, section 3)::

    population.recompute(model, batches)  # inputs only, in batches as large as in training

.. symptom:: validation far worse than training
   :doctor: stale_population
   :cause: the average mixes statistics of many past weights
   :check: recompute on 8 batches (:func:`bnref.population.recompute`): does the test change?
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, population, training
from bnref_gallery import datasets, models, scale

data = datasets.load("mnist").take(train=4000, test=500)
counts, size, random = 2 ** np.arange(7), 32, np.random.default_rng(0)
by_class = np.argsort(data.y_train).reshape(-1, size)

# %%
# In the course of training, and by K
# -----------------------------------
# The learning rate falls to 0 in 300 steps. A copy of the network is given the precise statistics.


def trained(seed):
    """Test accuracies in training; by K, with all images, and by class; and the network."""
    keras.utils.set_random_seed(seed)
    model, copy = (models.perceptron(bnref.BatchNorm, inputs=(28, 28, 1)) for _ in range(2))

    def accuracy(chosen=None, variance="pooled"):
        copy.set_weights(model.get_weights())
        if chosen is not None:
            population.recompute(copy, data.x_train[chosen], variance=variance)
        return training.evaluate(copy, data.x_test, data.y_test)[1]

    def measure(run):
        return {"moving": accuracy(), "precise": accuracy(random.integers(0, 4000, (16, size)))}

    rate = keras.optimizers.schedules.CosineDecay(0.1, 300)
    options = {"optimizer": keras.optimizers.SGD(rate, momentum=0.9), "measure": measure}
    options |= {"steps": 300, "batch_size": size, "every": 30, "seed": seed}
    history = training.train(model, data.x_train, data.y_train, **options)
    ks = [accuracy(random.integers(0, 4000, (k, size))) for k in counts]
    sorts = [accuracy(by_class, variance) for variance in ("pooled", "corrected")]
    everything = accuracy(np.arange(4000).reshape(8, 500))
    return [history["moving"], history["precise"]], [*ks, everything, *sorts], copy


runs = [trained(seed) for seed in range(scale.at_scale(quick=3, full=10))]
curves, final = (np.array([run[i] for run in runs]) for i in (0, 1))

# %%
# The error of the statistics
# ---------------------------
# Measured at the first normalization of the last network. The variance is off by √((κ − 1)/KN) of
# itself, with the kurtosis κ. ``pooled`` takes the variance of all examples together, ``corrected``
# the mean of the batches' Bessel-corrected ones, which is right for independent examples only.

h = np.asarray(runs[-1][2].layers[1](data.x_train.reshape(4000, 784)), "float64")
mean, variance = h.mean(0), h.var(0)
kurtosis = np.mean(((h - mean) ** 2 / variance) ** 2)


def estimated(chosen, estimator=population.pooled):
    """Errors of the mean and of the variance, relative to the deviation and the variance."""
    batches = h[chosen]
    numbers = np.full(len(batches), batches.shape[1])
    ours = estimator(numbers, batches.mean(1), batches.var(1))
    return (ours[0] - mean) / np.sqrt(variance), ours[1] / variance - 1


errors = [[estimated(random.integers(0, 4000, (k, size))) for _ in range(50)] for k in counts]
measured = np.sqrt(np.square(errors).mean((1, 3)))  # by K; of mean and variance
theory = np.sqrt([1, kurtosis - 1]) / np.sqrt(counts * size)[:, None]

fig, axes = plt.subplots(1, 3, figsize=(6.2, 3.6), layout="constrained")
for k, (name, colour) in enumerate((("mean", "C0"), ("variance", "C1"))):
    axes[0].loglog(counts, theory[:, k], colour, lw=1)
    axes[0].loglog(counts, measured[:, k], colour + "o", label=name)
    label = [("precise", "moving average")[k], *["_"] * (len(runs) - 1)]
    axes[1].plot(range(0, 301, 30), curves[:, 1 - k].T, colour, lw=1, label=label)
axes[2].semilogx(counts, final[:, :7].T, "C0o-", lw=1, ms=4)
axes[2].axhline(curves[:, 0, -1].mean(), color="C1", ls="--")
for ax, title, x in zip(axes, ("error", "accuracy", "at the end"), ("K", "step", "K"), strict=True):
    ax.set(title=title, xlabel=x)
    ax.set(ylim={"error": None, "accuracy": (0.6, 1), "at the end": (0.85, 1)}[title])
axes[0].legend(loc="lower left")
fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Check your own model like this: recompute, and test again; if nothing changes, leave it. Or ask
# ``bnref.doctor.examine(model, data, only=["stale_population"])``, which does that. It helps
# with a constant learning rate and after few steps, and costs K forward passes. Shuffle the batches
# or stay with ``pooled``: with batches of one class, ``corrected`` loses what lies between classes.
#
# Conclusion
# ----------

print("errors over prediction:", *(measured / theory).round(2).tolist())
assert np.allclose(measured / theory, 1, atol=0.2)
moving, precise = curves.mean(0)
print("accuracy by moving average and precise:", moving.round(3), precise.round(3))
assert precise[1] - moving[1] > 0.04 and abs(precise[-1] - moving[-1]) < 0.02
*by_k, everything, pooled, corrected = final.mean(0).round(3)
print("by K:", *by_k, "all images:", everything)
assert abs(by_k[3] - everything) < 0.02
low = np.mean(estimated(by_class, population.corrected)[1])
print(f"by class: corrected variance off by {low:.0%}; accuracy {corrected}, pooled {pooled}")
assert low < -0.2 and np.allclose(estimated(by_class), 0, atol=1e-6)


def found(model):
    some = data.x_train[:256], data.y_train[:256]
    report = doctor.examine(model, some, only=["stale_population"])
    return [finding.evidence for finding in report.findings]


keras.utils.set_random_seed(0)
model = models.perceptron(bnref.BatchNorm, inputs=(28, 28, 1))
sgd = keras.optimizers.SGD(0.1, momentum=0.9)
training.train(model, data.x_train, data.y_train, steps=30, batch_size=size, optimizer=sgd, seed=0)
evidence = found(model)
print("the doctor, after 30 steps:", *evidence)
assert evidence, "the check fires on the moving average"
population.recompute(model, np.split(data.x_train[:512], 16))
assert not found(model), "and is silent on the precise one"
