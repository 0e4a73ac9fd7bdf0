"""
How large a batch hides the gap between training and inference?
===============================================================

The same example comes out of a batch-norm layer differently in training and at inference, because
the statistics of a batch are noisy. For N independent values per channel the difference is √(3/2N)
of a standard deviation, root mean square: measured :claim:`0.44 <gap_8>` at N = 8 and
:claim:`0.22 <gap_32>` at N = 32. A trained network that uses the statistics of its test batch loses
:claim:`44 points <lost_2>` of accuracy at N = 2 and still :claim:`2.0 points <lost_32>` at N = 32.

.. symptom:: predictions depend on the batch
   :cause: statistics of N examples are noisy, by √(3/2N)
   :check: compare ``model(x, training=True)`` in batches of 8 and of 128
   :likelihood: sometimes
   :question: 3
"""

# %%
# Check
# -----
# How far apart are the two modes of your model on one batch, in deviations of its outputs?
# ``between_modes`` puts the moving statistics back afterwards. Values per channel are N·H·W after a
# convolution; neighbouring pixels resemble each other, so the gap is larger than N·H·W promises.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import functional, population, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim


def between_modes(model, x):
    before = model.get_weights()
    batch = np.asarray(model(x, training=True))
    model.set_weights(before)
    remembered = np.asarray(model(x, training=False))
    return float(np.sqrt(np.mean((batch - remembered) ** 2)) / remembered.std())


# %%
# Fix
# ---
# Predict with ``training=False``, or take batches so large that N in the formula hides the gap.
# Where the batches of training must be small, share statistics between replicas
# (:class:`bnref.layers.SyncBatchNorm`) or take a norm that does not look at the batch (group or
# layer normalization).
#
# Wrong
# ^^^^^


def predicted_by_the_batch(model, x):
    return model(x, training=True)


# %%
# Right
# ^^^^^


def predicted_by_the_population(model, x):
    return model(x, training=False)


# %%
# Why
# ---
# It goes wrong at question 3 (used when): the batch's statistics are used in training and the
# population's at inference. For normal x with mean 0 and variance 1, the batch's mean is off by
# 1/√N and its standard deviation by 1/√(2N). A value x̂ moves by the first plus x̂ times the second:
#
# .. math:: E[\Delta^2] = \frac1N + \frac{E[\hat x^2]}{2N} = \frac{3}{2N}
#
# Other distributions replace 1/2N by (κ − 1)/4N, where κ is the kurtosis (3 for the normal). The
# loss of accuracy goes with the square of the gap: from N = 2 to 16 each doubling about halves it,
# and beyond a few images decide. It takes N = 150 to bring the gap to 10 %. Never compare a
# training loss that was taken in training mode with a validation loss at inference and call the
# difference overfitting.
#
# Experiment
# ----------
# One layer, and the formula.

sizes = 2 ** np.arange(1, 11)
random = np.random.default_rng(0)


def gap(size, batches):
    """Root mean square difference of an example's two outputs, population N(0, 1)."""
    x = random.standard_normal((size, batches)).astype("float32")  # a column is a batch
    one, zero = np.ones(batches, "float32"), np.zeros(batches, "float32")
    y = functional.normalize(x, functional.moments(x), one, zero, epsilon=1e-6)
    return float(np.sqrt(np.mean(np.square(y - x))))


measured = np.array([gap(size, batches=2**20 // size) for size in sizes])
predicted = np.sqrt(3 / (2 * sizes))

# %%
# Trained networks: perceptrons, trained on batches of 128 and given exact population statistics,
# classify the test images N at a time by the statistics of those N. Each network is its own
# reference: the same weights at inference.

data = datasets.load("mnist").take(train=4000, test=1000)
order = random.permutation(len(data.x_test))
x_test, y_test = data.x_test[order], data.y_test[order]


network = models.perceptron(bnref.BatchNorm, inputs=(28, 28, 1))
by_batch = tf.function(partial(predicted_by_the_batch, network))
by_population = tf.function(partial(predicted_by_the_population, network))
few = sizes[sizes <= 128]


def accuracy(predicted, size):
    """Test accuracy, predicted in batches of this size."""
    whole = len(x_test) // size * size
    batches = tf.constant(x_test[:whole].reshape(-1, size, *x_test.shape[1:]))
    outputs = np.concatenate([predicted(batch) for batch in batches])
    return np.mean(np.argmax(outputs, -1) == y_test[:whole])


def trained(seed):
    keras.utils.set_random_seed(seed)
    network.set_weights(models.perceptron(bnref.BatchNorm, inputs=(28, 28, 1)).get_weights())
    training.train(network, data.x_train, data.y_train, steps=200, batch_size=128, seed=seed)
    population.recompute(network, np.split(data.x_train, 8))


def lost(seed):
    """Accuracy that the batch's statistics lose, for each size of batch; and the gap at 32."""
    trained(seed)
    gap_of_network = between_modes(network, x_test[:32])
    reference, losses = accuracy(by_population, 500), []
    for size in few:
        losses.append(reference - accuracy(by_batch, int(size)))
    return losses, gap_of_network


losses, gaps = zip(*[lost(seed) for seed in range(scale.at_scale(quick=3, full=10))], strict=True)
losses = np.array(losses)

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.5), layout="constrained")
left.loglog(sizes, predicted, color="#555555", ls=":", label="√(3/2N)")
left.loglog(sizes, measured, "o", label="measured")
left.set(xlabel="N, values per channel", ylabel="gap, standard deviations", title="One layer")
left.legend()
right.semilogx(few, 100 * losses.T, "o-", color="C1", lw=1, ms=4)
right.axhline(0, color="#555555", lw=1)
right.set(xlabel="N, images per batch", ylabel="points of accuracy lost", title="Trained networks")
plt.show()

# %%
# Proof
# -----
# The formula holds from N = 8 on, and up to N = 16 each doubling about halves the accuracy lost.

for size, ours, theory in zip(sizes, measured, predicted, strict=True):
    print(f"N = {size:4}   gap {ours:.3f}   √(3/2N) {theory:.3f}")
print("points lost at N = 2, 4, 8, ...:", np.round(100 * losses.mean(0), 1))
claim("formula", (measured / predicted)[sizes >= 8], "gap over √(3/2N)", above=0.95, below=1.05)
claim("gap_8", measured[2], "gap of one layer at N = 8, deviations", above=0.41, below=0.46)
claim("gap_32", measured[4], "gap of one layer at N = 32, deviations", above=0.2, below=0.23)
claim("lost_2", losses[:, 0], "accuracy lost at N = 2", above=0.2, of="mean")
claim("lost_32", losses[:, 4], "accuracy lost at N = 32", above=0.003, below=0.08, of="mean")
mean = losses.mean(0)
claim("halved", mean[:3] / mean[1:4], "loss at N over loss at 2N", above=1.3, below=3.5)
claim("modes", gaps, "between the modes of a network at N = 32, deviations", above=0.05, below=1)
assert (np.diff(mean[:5]) < 0).all(), "less is lost with each doubling, up to N = 32"
