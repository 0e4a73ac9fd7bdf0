"""
Dropout before batch norm: the variance remembered is not the variance met
==========================================================================

Dropout raises the variance of a channel in training, and not at inference. Batch norm remembers the
raised one: with half of the values kept it divides at inference by a standard deviation at least
:claim:`1.4 <deviation>` times too large. In a small network with dropout before every norm the test
loss is :claim:`36 % <loss_before>` higher at a rate of 0.5 than with statistics recomputed without
dropout; at a rate of 0.8 the accuracy is :claim:`25 points <accuracy_before>` lower. With dropout
after the last norm alone recomputing changes little: the loss by :claim:`2 % <loss_last>`, the
accuracy by :claim:`0.5 points <accuracy_last>`.

.. symptom:: validation far worse than training
   :doctor: dropout_before
   :check: ``bnref.population.recompute(model, batches, dropout=False)``, and validate again
"""

# %%
# Check
# -----
# The check compares the variance of each norm's inputs with dropout and without. The model need not
# be trained.

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, population, training
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Put dropout after the last norm alone. A model that is trained already is mended by
# ``bnref.population.recompute(model, batches, dropout=False)``.
#
# Wrong
# ^^^^^


def hidden_layer(rate, last):
    dense = keras.layers.Dense(128)
    norm = keras.layers.BatchNormalization(momentum=0.9)
    return [dense, keras.layers.Dropout(rate), norm, keras.layers.ReLU()]


# %%
# Right
# ^^^^^


def hidden_layer_dropout_last(rate, last):
    dense = keras.layers.Dense(128)
    norm = keras.layers.BatchNormalization(momentum=0.9)
    layers = [dense, norm, keras.layers.ReLU()]
    return [*layers, keras.layers.Dropout(rate)] if last else layers


# %%
# Why
# ---
# It goes wrong at question 2 (remembered how): from values that inference never meets. Kept values
# are divided by the share p that is kept, so the mean stays and E[x²] grows by 1/p. The variance
# becomes (σ² + μ²)/p − μ², which is 1/p + (1/p − 1)μ²/σ² times σ². After a norm, dropout still
# shifts the variance for the next one. Li et al. 2018, arXiv 1801.05134, section 3;
# `luigibonati/mlcolvar#267 <https://github.com/luigibonati/mlcolvar/issues/267>`_.
#
# Experiment
# ----------
# One layer: normal inputs with means 0, σ and 2σ.

kept, ratios = np.array([1.0, 0.8, 0.65, 0.5, 0.35, 0.2]), np.array([0, 1, 2])
x = np.float32(np.random.default_rng(0).standard_normal((50000, 3)) + ratios)


def factor(p):
    """The variance remembered with dropout over that without."""
    norm = bnref.BatchNorm(momentum=0.0)
    norm(keras.layers.Dropout(1 - p, seed=1)(x, training=True), training=True)
    return norm.moving_variance.numpy() / x.var(0)


measured = np.array([factor(p) for p in kept])
predicted = 1 / kept[:, None] + (1 / kept[:, None] - 1) * ratios**2

# %%
# A network of three hidden layers, with dropout in three places.


def hidden_layer_dropout_after(rate, last):
    dense = keras.layers.Dense(128)
    norm = keras.layers.BatchNormalization(momentum=0.9)
    return [dense, norm, keras.layers.ReLU(), keras.layers.Dropout(rate)]


PLACES = {
    "before": hidden_layer,
    "after": hidden_layer_dropout_after,
    "after the last": hidden_layer_dropout_last,
}
RATES = (0.5, 0.8)
data = datasets.load("mnist").take(train=4000, test=1000)


def network(place, rate):
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
    for number in range(3):
        layers += PLACES[place](rate, last=number == 2)
    return keras.Sequential([*layers, keras.layers.Dense(10)])


# %%
# Each network is trained in 150 steps, and tested before and after its statistics are recomputed.


def scores(place, rate):
    """Loss and accuracy as trained, then recomputed without dropout; a row a seed."""
    keras.utils.set_random_seed(0)  # the layers of dropout take their seeds from it
    model, rows = network(place, rate), []
    step = training.Run(model, keras.optimizers.SGD(0.1)).step
    for seed in range(scale.at_scale(quick=3, full=10)):
        keras.utils.set_random_seed(seed)
        model.set_weights(network(place, rate).get_weights())
        batches = training.shuffled_batches(data.x_train, data.y_train, batch_size=64, seed=seed)
        for _ in range(150):
            step(*next(batches))
        trained = training.evaluate(model, data.x_test, data.y_test)
        population.recompute(model, np.split(data.x_train, 4), dropout=False)
        rows.append([*trained, *training.evaluate(model, data.x_test, data.y_test)])
    return rows


runs = np.array([[scores(place, rate) for rate in RATES] for place in PLACES])
accuracy, loss = runs[..., 1::2], runs[..., ::2]

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.9), layout="constrained")
for k, colour in enumerate(("C4", "C2", "C3")):
    left.semilogy(kept, predicted[:, k], colour + ":")
    left.semilogy(kept, measured[:, k], colour + "o", label=("μ = 0", "μ = σ", "μ = 2σ")[k])
left.legend()
left.set(title="Variance, training/inference", xlabel="share kept, p (lines: formula)")
left.set(yticks=(1, 10), yticklabels=("1", "10"))
lines = ["before, 0.5", "before, 0.8", "after, 0.5", "after, 0.8", "last, 0.5", "last, 0.8"]
for k, (style, name) in enumerate((("C1X", "as trained"), ("C0o", "recomputed without dropout"))):
    right.plot(accuracy[..., k].reshape(6, -1), range(6), style, ms=7)[0].set_label(name)
right.set(title="Test accuracy", yticks=range(6), yticklabels=lines, ylim=(5.5, -0.5), xlim=(0, 1))
fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
left.set_ylabel("ratio of variances")
right.set_ylabel("place of dropout, share kept")
plt.show()

# %%
# Proof
# -----
# The formula, what dropout costs in each place, and the doctor. That the last place has the highest
# accuracy of all has nothing to do with variance: this network wants less dropout.

for place, by_rate, losses in zip(PLACES, accuracy.mean(2), loss.mean(2), strict=True):
    for rate, share, one in zip(RATES, by_rate.round(3), losses.round(3), strict=True):
        print(f"{place:14} {rate}: accuracy, as trained and recomputed {share}, loss {one}")
claim("formula", measured / predicted, "variance over the formula's", above=0.95, below=1.05)
claim(
    "deviation", measured[3].min() ** 0.5, "deviation at p = 0.5, the least", above=1.38, below=1.5
)
gained, saved = accuracy[..., 1] - accuracy[..., 0], loss[..., 0] / loss[..., 1] - 1
claim("loss_before", saved[0, 0], "loss too high, before, 0.5", above=0.1, below=0.7, of="mean")
claim("accuracy_at_half", gained[0, 0], "accuracy lost, before, 0.5", below=0.05, of="mean")
claim("accuracy_before", gained[0, 1], "accuracy lost, before, 0.8", above=0.15, of="mean")
claim("accuracy_after", gained[1, 1], "accuracy lost, after, 0.8", above=0.08, of="mean")
claim("loss_after", saved[1, 0], "loss too high, after, 0.5", above=0.03, of="mean")
claim("accuracy_last", gained[2].mean(1), "after the last, lost", above=-0.02, below=0.02)
claim("loss_last", saved[2].mean(1), "after the last, loss too high", above=-0.08, below=0.08)


def found(model):
    report = doctor.examine(model, data.x_train[:256], only=["dropout_before"])
    return [finding.evidence for finding in report.findings]


evidence = found(network("before", 0.5))
print("the doctor, of the wrong model:", *evidence)
assert evidence, "the check fires on the wrong model"
assert not found(network("after the last", 0.5)), "and is silent on the right one"
