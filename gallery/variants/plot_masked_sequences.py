"""
Padding counted as data moves the statistics
============================================

If a share p of the steps is zero padding and counted, the mean is **(1 − p)μ** and the variance
**(1 − p)σ² + p(1 − p)μ²**: both depend on how long the longest sequence is. A small network that
reads MNIST row by row loses **more than one point** of accuracy to it, and some predictions change
when the padding is taken away. With :class:`bnref.layers.MaskedBatchNorm` none changes.

The symptom: a sequence gets another answer when it stands in another batch, or is padded further.
Question 1, *whose statistics*, is answered with steps that are not there. ``MaskedBatchNorm`` reads
the valid steps alone, and puts out 0 at the others. Keras's ``BatchNormalization`` with a mask does
the former and not the latter: what it puts out there, the next convolution reads.

.. symptom:: predictions depend on the batch
   :doctor: padding_counted
   :check: pad one sequence more: does its prediction change?

.. symptom:: validation far worse than training
   :doctor: padding_counted
   :cause: training and test are padded by different amounts
   :check: compare the share of padding in both
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import doctor, functional, training
from bnref_gallery import datasets, scale

# %%
# 200 sequences of 20 to 100 steps, of mean 2 and variance 1, padded further and further.

random = np.random.default_rng(0)
lengths, shares, measured = random.integers(20, 101, 200), [], []
for steps in (100, 130, 200, 400, 800):
    mask = np.arange(steps) < lengths[:, None]
    x = np.where(mask, random.normal(2, 1, mask.shape), 0).astype("float32")[..., None]
    both = functional.moments(x), functional.masked_moments(x, mask)
    measured.append([[each.mean[0, 0], each.variance[0, 0]] for each in both])  # one channel
    shares.append(1 - mask.mean())
p, measured = np.array(shares), np.array(measured)
theory = np.stack([2 * (1 - p), (1 - p) + 4 * p * (1 - p)], 1)

# %%
# The first 8 to 28 rows of a digit are a sequence, padded to 140 steps. Two convolutions over the
# steps, each normalized, then a mean over the valid steps. A feature tells which these are.

data, rows = datasets.load("mnist").take(train=4000, test=500), random.integers(8, 29, 4500)


def sequences(images, rows):
    x = np.zeros((len(images), 140, 29), "float32")
    x[:, :28, :28], x[:, :28, 28] = images[..., 0], 1
    return x * (np.arange(140) < rows[:, None])[..., None]


class Reader(keras.Model):
    def __init__(self, norm):
        super().__init__()
        self.convolutions = [keras.layers.Conv1D(24, 5, padding="same") for _ in range(2)]
        self.norms = [norm(momentum=0.9) for _ in range(2)]
        self.logits = keras.layers.Dense(10)

    def call(self, inputs, training=None):
        x, mask = inputs, inputs[..., -1] > 0
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            masked = {} if type(norm) is bnref.BatchNorm else {"mask": mask}
            x = keras.ops.relu(norm(convolution(x), training=training, **masked))
        weight = keras.ops.cast(mask, x.dtype)[..., None]
        return self.logits(keras.ops.sum(x * weight, 1) / keras.ops.sum(weight, 1))


norms = bnref.BatchNorm, keras.layers.BatchNormalization, bnref.MaskedBatchNorm
arms = "padding counted", "Keras with a mask", "MaskedBatchNorm"
train, test = sequences(data.x_train, rows[:4000]), sequences(data.x_test, rows[4000:])


def trained(norm, seed):  # accuracies; then how much the outputs change without padding
    keras.utils.set_random_seed(seed)
    model = Reader(norm)
    model(train[:1])
    options = {"optimizer": keras.optimizers.Adam(3e-3), "steps": 120, "every": 20, "seed": seed}
    options["measure"] = lambda run: {"": run.evaluate(test, data.y_test)[1]}
    accuracy = training.train(model, train, data.y_train, batch_size=32, **options)[""]
    padded, alone = model(test).numpy(), np.zeros((500, 10))
    for n in range(8, 29):  # together with sequences of the same length, hence without padding
        alone[rows[4000:] == n] = model(test[rows[4000:] == n, :n])
    changed = np.mean(padded.argmax(1) != alone.argmax(1))
    return [*accuracy, changed, np.abs(padded - alone).max()]


seeds = range(scale.at_scale(quick=3, full=10))
runs = np.array([[trained(norm, seed) for seed in seeds] for norm in norms])
curves, changed, difference = runs[..., :7], runs[..., 7], runs[..., 8]
fig, axes = plt.subplots(2, 2, figsize=(6.2, 5.4), layout="constrained")
for k, title in enumerate(("Mean", "Variance")):
    axes[0, k].plot(p, theory[:, k], "C4:", label=("predicted", None)[k])
    axes[0, k].plot(p, measured[:, 0, k], "C1o", p, measured[:, 1, k], "C0o")
    axes[0, k].set(title=title, xlabel="share of padding", ylim=(0, 2.2))
for k, (arm, colour) in enumerate(zip(arms, ("C1", "C3", "C0"), strict=True)):
    axes[1, 0].plot(range(0, 121, 20), curves[k].T, colour, lw=1)
    axes[1, 1].plot(100 * changed[k], [k] * len(seeds), colour + "o-", label=arm)
axes[1, 0].set(xlabel="step", title="Test accuracy")
axes[1, 1].set(xlabel="%", title="Predictions changed", yticks=[], ylim=(-0.5, 2.5))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# To check your own model: predict one sequence alone, and padded to twice its length; or call
# ``bnref.doctor.examine(model, data, only=["padding_counted"])``. The fix::
#
#     x = bnref.MaskedBatchNorm()(x, mask=mask)
#     x = keras.layers.BatchNormalization()(x, mask=mask) * weight  # in Keras alone
#
# It changes nothing where all are equally long. Keras's layer learns as well as this one.
#
# Conclusion
# ----------
print("p, mean, variance with padding counted:", p.round(2), *measured[:, 0].T.round(2))
assert np.abs(measured - np.stack([theory, 0 * theory + [2, 1]], 1)).max() < 0.1
final = curves[..., -3:].mean(-1)
for arm, *values in zip(arms, final, changed, difference, strict=True):
    print(arm, "accuracy, share changed, difference of logits:", *np.round(values, 7).tolist())
assert final[2].mean() - final[0].mean() > 0.01 and abs(final[2].mean() - final[1].mean()) < 0.04
assert (changed[:2] > 0.01).all() and (changed[2] == 0).all() and difference[2].max() < 1e-4
poisoned, layer = np.where(mask[..., None], x, np.nan), bnref.MaskedBatchNorm()
once, again = (layer(each, mask=mask, training=True).numpy() for each in (x, poisoned))
assert (once == again).all() and (once[~mask] == 0).all(), "NaN in the padding changes nothing"


def found(norm):
    model = Reader(norm)
    model(train[:1])
    report = doctor.examine(model, train[:64], only=["padding_counted"])
    return [finding.evidence for finding in report.findings]


wrong, *right = (found(norm) for norm in norms)
print("the doctor, of padding counted:", *wrong)
assert wrong, "the check fires where padding counts"
assert not any(right), "and is silent where a mask is heard"
