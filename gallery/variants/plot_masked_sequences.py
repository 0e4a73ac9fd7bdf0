"""
Padding counted as data moves the statistics
============================================

If a share p of the steps is zero padding and counted, the mean is **(1 − p)μ** and the variance
**(1 − p)σ² + p(1 − p)μ²**: both depend on how long the longest sequence is. A small network that
reads MNIST row by row loses **more than two points** of accuracy to it, and some predictions change
when the padding is taken away. With :class:`bnref.layers.MaskedBatchNorm` none changes.

The symptom: a sequence gets another answer when it stands in another batch, or is padded further.
Question 1, *whose statistics*, is answered with steps that are not there. ``MaskedBatchNorm`` reads
the valid steps alone, and puts out 0 at the others. Keras's ``BatchNormalization`` with a mask does
the former and not the latter: what it puts out there, the next convolution reads.
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import datasets, devices, functional, training

# %%
# What padding does to the moments
# --------------------------------
# 200 sequences of 20 to 100 steps, of mean 2 and variance 1, padded further and further.

random = np.random.default_rng(0)
lengths, shares, measured = random.integers(20, 101, 200), [], []
for steps in (100, 130, 200, 400, 800):
    mask = np.arange(steps) < lengths[:, None]
    x = np.where(mask, random.normal(2, 1, mask.shape), 0).astype("float32")[..., None]
    both = functional.moments(x), functional.masked_moments(x, mask)
    shares.append(1 - mask.mean())
    measured.append([[each.mean[0], each.variance[0]] for each in both])
p, measured = np.array(shares), np.array(measured)
theory = np.stack([2 * (1 - p), (1 - p) + 4 * p * (1 - p)], 1)

fig, ax = plt.subplots(figsize=(6.2, 3), layout="constrained")
for k, (name, colour) in enumerate((("mean", "C0"), ("variance", "C1"))):
    ax.plot(p, measured[:, 0, k], colour + "o", label=f"{name}, padding counted")
    ax.plot(p, theory[:, k], colour, lw=1, label="predicted")
    ax.plot(p, measured[:, 1, k], colour + "x", label=f"{name}, under the mask")
ax.set(xlabel="share of padding p", ylim=(0, 2.2))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# A network that reads rows
# -------------------------
# The first 8 to 28 rows of a digit are a sequence, padded to 140 steps. Two convolutions over the
# steps, each normalized, then a mean over the valid steps. A feature tells which these are.

data = datasets.load("mnist").take(train=4000, test=500)
rows = random.integers(8, 29, 4500)


def sequences(images, rows):
    x = np.zeros((len(images), 140, 29), "float32")
    x[:, :28, :28], x[:, :28, 28] = images[..., 0], 1
    return x * (np.arange(140) < rows[:, None])[..., None]


class Reader(keras.Model):
    def __init__(self, norm, masked):
        super().__init__()
        self.convolutions = [keras.layers.Conv1D(24, 5, padding="same") for _ in range(2)]
        self.norms, self.masked = [norm(momentum=0.9) for _ in range(2)], masked
        self.logits = keras.layers.Dense(10)

    def call(self, x, training=False):
        mask = x[..., -1] > 0
        told = {"mask": mask} if self.masked else {}  # the whole difference
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = tf.nn.relu(norm(convolution(x), training=training, **told))
        weight = tf.cast(mask, x.dtype)[..., None]
        return self.logits(tf.reduce_sum(x * weight, 1) / tf.reduce_sum(weight, 1))


arms = {
    "padding counted": (bnref.BatchNorm, False),
    "Keras with a mask": (keras.layers.BatchNormalization, True),
    "MaskedBatchNorm": (bnref.MaskedBatchNorm, True),
}
train, test = sequences(data.x_train, rows[:4000]), sequences(data.x_test, rows[4000:])


def trained(arm, seed):
    """Test accuracy every 20 steps; then the change of the outputs without padding."""
    keras.utils.set_random_seed(seed)
    model = Reader(*arms[arm])
    model(train[:1])

    def measure(model):
        return {"accuracy": training.evaluate(model, test, data.y_test)[1]}

    options = {"optimizer": keras.optimizers.Adam(3e-3), "measure": measure, "seed": seed}
    history = training.train(
        model, train, data.y_train, steps=120, batch_size=32, every=20, **options
    )
    padded, alone = model(test).numpy(), np.zeros((500, 10))
    for n in range(8, 29):  # together with sequences of the same length, hence without padding
        alone[rows[4000:] == n] = model(test[rows[4000:] == n, :n])
    changed = np.mean(padded.argmax(1) != alone.argmax(1))
    return [*history["accuracy"], changed, np.abs(padded - alone).max()]


seeds = range(devices.at_scale(quick=3, full=10))
runs = np.array([[trained(arm, seed) for seed in seeds] for arm in arms])
curves, changed, difference = runs[..., :7], runs[..., 7], runs[..., 8]

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
for k, (arm, colour) in enumerate(zip(arms, ("C1", "C3", "C0"), strict=True)):
    left.plot(range(0, 121, 20), curves[k].mean(0), colour, label=arm)
    left.fill_between(
        range(0, 121, 20), curves[k].min(0), curves[k].max(0), color=colour, alpha=0.15
    )
    right.plot(100 * changed[k], [k] * len(seeds), colour + "o")
left.set(xlabel="step", title="test accuracy, padded")
right.set(xlabel="%", title="predictions changed", yticks=[], ylim=(-0.5, 2.5))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# To check your own model: predict one sequence alone, and padded to twice its length. The fix is to
# pass the mask, and to zero what follows each layer::
#
#     x = bnref.MaskedBatchNorm()(x, mask=mask)
#     x = keras.layers.BatchNormalization()(x, mask=mask) * weight  # in Keras alone
#
# Where nothing after the norm mixes steps, and sequences are equally long, it changes nothing.
#
# Conclusion
# ----------
print("p", p.round(2), "padding counted", *measured[:, 0].round(2).tolist())
assert np.allclose(measured[:, 0], theory, atol=0.1) and np.allclose(
    measured[:, 1], [2, 1], atol=0.1
)
final = curves[..., -3:].mean(-1)
for arm, *values in zip(arms, final, changed, difference, strict=True):
    print(f"{arm:18} accuracy, share changed, difference of logits:", *np.round(values, 7).tolist())
assert final[2].mean() - final[0].mean() > 0.02 and abs(final[2].mean() - final[1].mean()) < 0.04
assert (changed[:2] > 0.01).all() and (changed[2] == 0).all() and difference[2].max() < 1e-4
poisoned, layer = np.where(mask[..., None], x, np.nan), bnref.MaskedBatchNorm()
once, again = (layer(each, mask=mask, training=True).numpy() for each in (x, poisoned))
assert (once == again).all() and (once[~mask] == 0).all(), "NaN in the padding changes nothing"
