"""
Padding counted as data moves the statistics
============================================

Where sequences are padded with zeros and the padding is counted, mean and variance depend on how
long the longest sequence of the batch is. A small network that gets the rows of a digit one by one
changes :claim:`5 % <changed>` of its predictions when the padding is taken away. Its test accuracy
is :claim:`4 points <lost>` lower than with :class:`bnref.layers.MaskedBatchNorm`, which reads the
valid steps alone, and of whose predictions none changes.

.. symptom:: predictions depend on the batch
   :doctor: padding_counted
   :check: pad one sequence more: does its prediction change?

.. symptom:: validation far worse than training
   :doctor: padding_counted
   :cause: training and test are padded by different amounts
   :check: compare the share of padding in both
"""

# %%
# Check
# -----
# The check looks for sequences that end in zeros, of different lengths, and norms without a mask.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, functional, training
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Give the norm the mask, and let the padding come out as 0. A ``bnref.MaskedBatchNorm`` does both;
# Keras's own layer normalizes the padding too, and the next convolution reads it there.
#
# Wrong
# ^^^^^


def wrong(norm, x, mask, training):
    return norm(x, training=training)


# %%
# Right
# ^^^^^


def right(norm, x, mask, training):
    return norm(x, training=training, mask=mask)


# %%
# Wrong, Keras 3 alone
# ^^^^^^^^^^^^^^^^^^^^


def wrong_in_keras(norm, x, mask, training):
    return norm(x, training=training, mask=mask)


# %%
# Right, Keras 3 alone
# ^^^^^^^^^^^^^^^^^^^^


def right_in_keras(norm, x, mask, training):
    x = norm(x, training=training, mask=mask)
    valid = keras.ops.cast(mask, x.dtype)
    return x * keras.ops.expand_dims(valid, -1)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics): of steps that are not there. If a share p of the
# steps is zero padding and counted, then, with μ and σ² of the valid steps, the batch has
#
# .. math:: \mu_B = (1 - p)\,\mu, \qquad \sigma_B^2 = (1 - p)\,\sigma^2 + p\,(1 - p)\,\mu^2 .
#
# Both depend on p, which in a test is another. In Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm
# 1, the sums run over values that are there. Nothing changes where all are equally long.
#
# Met in `pytorch/pytorch#25910 <https://github.com/pytorch/pytorch/issues/25910>`_ and
# `tensorflow/tensorflow#30161 <https://github.com/tensorflow/tensorflow/issues/30161>`_.
#
# Experiment
# ----------
# The moments of 200 sequences of 20 to 100 steps, of mean 2 and variance 1, padded ever further.

random = np.random.default_rng(0)
lengths = random.integers(20, 101, 200)


def moments(steps):
    """The share of padding; mean and variance with padding counted, and masked."""
    mask = np.arange(steps) < lengths[:, None]
    x = np.where(mask, random.normal(2, 1, mask.shape), 0).astype("float32")[..., None]
    both = functional.moments(x), functional.masked_moments(x, mask)
    return 1 - mask.mean(), [np.ravel([each.mean, each.variance]) for each in both]


p, measured = zip(*[moments(steps) for steps in (100, 130, 200, 400, 800)], strict=True)
p, measured = np.array(p), np.array(measured)
theory = np.stack([2 * (1 - p), (1 - p) + 4 * p * (1 - p)], 1)

# %%
# The first 8 to 28 rows of a digit are a sequence, padded to 140 steps. Two convolutions over the
# steps, each normalized, then a mean over the valid steps. A feature tells which these are.

data = datasets.load("mnist").take(train=3000, test=1000)
rows = random.integers(8, 29, 4000)


def sequences(images, rows):
    x = np.zeros((len(images), 140, 29), "float32")
    x[:, :28, :28] = images[..., 0]
    x[:, :28, 28] = 1
    return x * (np.arange(140) < rows[:, None])[..., None]


train, test = sequences(data.x_train, rows[:3000]), sequences(data.x_test, rows[3000:])

# %%


class Reader(keras.Model):
    def __init__(self, norm, normalized):
        super().__init__()
        self.convolutions = [keras.layers.Conv1D(24, 5, padding="same") for _ in range(2)]
        self.norms = [norm(momentum=0.9) for _ in range(2)]
        self.logits = keras.layers.Dense(10)
        self.normalized = normalized
        self(train[:1])

    def call(self, inputs, training=None):
        x, mask = inputs, inputs[..., -1] > 0
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = keras.ops.relu(self.normalized(norm, convolution(x), mask, training))
        weight = keras.ops.cast(mask, x.dtype)[..., None]
        return self.logits(keras.ops.sum(x * weight, 1) / keras.ops.sum(weight, 1))


ARMS = {
    "padding counted": (bnref.BatchNorm, wrong),
    "Keras with a mask": (keras.layers.BatchNormalization, wrong_in_keras),
    "Keras, padding set to 0": (keras.layers.BatchNormalization, right_in_keras),
    "MaskedBatchNorm": (bnref.MaskedBatchNorm, right),
}

# %%
# What a network says of sequences without padding: each passes together with those as long as it.


def without_padding(model):
    logits = np.zeros((1000, 10))
    for n in range(8, 29):
        same = np.flatnonzero(rows[-1000:] == n)
        logits[same] = model(test[same, :n])
    return logits


# %%


def trained(arm):
    """Test accuracies on the way; share of changed predictions, change of logits; a row a seed."""
    model, found = Reader(*arm), []
    run = training.Run(model, keras.optimizers.Adam(3e-3))
    options = {"steps": 120, "batch_size": 32, "every": 20}
    options["measure"] = lambda run: {"accuracy": run.evaluate(test, data.y_test)[1]}
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(model, run.optimizer, partial(Reader, *arm), seed=seed)
        history = run.train(train, data.y_train, seed=seed, **options)
        padded, alone = model(test).numpy(), without_padding(model)
        changed = np.mean(padded.argmax(1) != alone.argmax(1))
        found.append([*history["accuracy"], changed, np.abs(padded - alone).max()])
    return np.array(found)


runs = {name: trained(arm) for name, arm in ARMS.items()}

# %%

fig, axes = plt.subplots(2, 2, figsize=(6.2, 5.4), layout="constrained")
fig.suptitle("Padding counted, and not")
for k, title in enumerate(("mean", "variance")):
    axes[0, k].plot(p, theory[:, k], "C4:", label=("predicted", None)[k])
    axes[0, k].plot(p, measured[:, 0, k], "C1o", p, measured[:, 1, k], "C0o")
    axes[0, k].set(xlabel="share of padding", ylabel=title, ylim=(0, 2.2))
for place, (arm, colour) in enumerate(zip(ARMS, ("C1", "C3", "C2", "C0"), strict=True)):
    axes[1, 0].plot(range(0, 121, 20), runs[arm][:, :7].T, colour, lw=1)
    axes[1, 1].plot(100 * runs[arm][:, 7], [place] * len(runs[arm]), colour + "o-", label=arm)
axes[1, 0].set(xlabel="step", ylabel="test accuracy", ylim=(0, 1))
axes[1, 1].set(xlabel="predictions changed, %", yticks=[], ylim=(-0.5, 3.5))
fig.legend(loc="outside lower center", ncols=2)
axes[1, 1].set_ylabel("arm")
plt.show()

# %%
# Proof
# -----
# The moments against the formulas, and that what stands in the padding is not read.

print("p, mean, variance with padding counted:", p.round(2), *measured[:, 0].T.round(2))
assert np.abs(measured[:, 0] - theory).max() < 0.1, "padding counted: as the formulas say"
assert np.abs(measured[:, 1] - [2, 1]).max() < 0.1, "masked: the moments of the sequences"
mask, layer = test[..., -1] > 0, bnref.MaskedBatchNorm()
poisoned = np.where(mask[..., None], test, np.float32(np.nan))
once, again = (layer(each, mask=mask, training=True).numpy() for each in (test, poisoned))
assert (once == again).all(), "NaN in the padding changes nothing"
assert (once[~mask] == 0).all(), "the padding comes out as 0"

# %%
# The networks. The accuracy is the mean over the last three tests of a run.

for arm, values in runs.items():
    print(arm, "accuracies, shares changed, change of logits:", values[:, 6:].round(7).tolist())
counted, keras_masked, keras_right, masked = (values[:, 4:7].mean(1) for values in runs.values())
claim("lost", masked - counted, "test accuracy lost to the padding", above=0.01, of="mean")
assert abs(np.mean(masked - keras_masked)) < 0.04, "Keras's layer learns as well with a mask"
changed = runs["padding counted"][:, 7]
claim("changed", changed, "share of predictions that change", above=0.01)
assert runs["Keras with a mask"][:, 7].min() > 0.01, "a mask alone does not help in Keras"
for arm in ("Keras, padding set to 0", "MaskedBatchNorm"):
    assert (runs[arm][:, 7] == 0).all(), f"{arm}: no prediction changes"
    assert runs[arm][:, 8].max() < 1e-4, f"{arm}: no logit changes but for rounding"


def found(arm):
    report = doctor.examine(Reader(*ARMS[arm]), train[:64], only=["padding_counted"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of padding counted:", *found("padding counted"))
for arm in ARMS:
    fires = bool(found(arm))
    assert fires == (arm == "padding counted"), f"{arm}: it fires where padding counts, only there"
