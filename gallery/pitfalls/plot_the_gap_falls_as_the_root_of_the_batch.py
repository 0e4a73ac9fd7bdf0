"""
How large a batch hides the gap between training and inference?
===============================================================

The same example comes out of a batch-norm layer differently in training and at inference: by
**√(3/2N)** of a standard deviation, root mean square, for N independent values a channel. At N = 8
that is 43 %, at 32 it is 22 %, and it takes N = 150 to get to 10 %. A trained network that
normalizes by its batch at test time loses tens of points of accuracy at N = 2 and still some at
N = 32; each doubling of N halves the loss, for it goes with the square of the gap.

The symptom: a model predicts differently in ``training=True`` and ``training=False``, or is worse
in one of them, and the difference depends on the batch size. The cause is question 3, *used when*:
the batch's statistics in training, the population's at inference, and the former are noisy.

.. symptom:: predictions depend on the batch
   :cause: statistics of N examples are noisy, by √(3/2N)
   :check: compare ``model(x, training=True)`` in batches of 8 and of 128
   :likelihood: sometimes
   :question: 3
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import functional, population, training
from bnref_gallery import datasets, models, scale

sizes = 2 ** np.arange(1, 11)

# %%
# Where the formula comes from
# ----------------------------
# For normal x with mean 0 and variance 1, the batch's mean is off by 1/√N and its standard
# deviation by 1/√(2N). A value x̂ moves by the first plus x̂ times the second:
#
# .. math:: E[\Delta^2] = \frac1N + \frac{E[\hat x^2]}{2N} = \frac{3}{2N}
#
# Other distributions replace 1/2N by (κ − 1)/4N, where κ is the kurtosis (3 for the normal).

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
# In a trained network
# --------------------
# Perceptrons, trained on batches of 128 and given exact population statistics, classify the
# test images N at a time by the batch's statistics. Every network is its own reference: the same
# weights at inference.

data = datasets.load("mnist").take(train=4000, test=512)
order = random.permutation(512)


def trained(seed):
    keras.utils.set_random_seed(seed)
    model = models.perceptron(bnref.BatchNorm, inputs=(28, 28, 1))
    training.train(model, data.x_train, data.y_train, steps=200, batch_size=128, seed=seed)
    population.recompute(model, np.split(data.x_train, 8))
    return model


def accuracies(model):
    """At inference, and by batch statistics for each batch size."""
    scores = [training.evaluate(model, data.x_test, data.y_test)[1]]
    for layer in model.layers:  # question 3 answered otherwise: always the batch's
        if isinstance(layer, bnref.BatchNorm):
            layer.inference_moments = layer.batch_moments
    x, y = data.x_test[order], data.y_test[order]
    return scores + [training.evaluate(model, x, y, batch_size=int(n))[1] for n in sizes[:9]]


scores = np.array([accuracies(trained(seed)) for seed in range(scale.at_scale(quick=3, full=10))])
loss_of_accuracy = scores[:, :1] - scores[:, 1:]

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.5), layout="constrained")
left.loglog(sizes, predicted, color="#555555", ls=":", label="√(3/2N)")
left.loglog(sizes, measured, "o", label="measured")
left.set(
    xlabel="N, values a channel", ylabel="gap, standard deviations", title="One layer, normal x"
)
left.legend()
right.semilogx(sizes[:9], 100 * loss_of_accuracy.T, "o-", color="C1", lw=1, ms=4)
right.axhline(0, color="#555555", lw=1)
right.set(xlabel="N, images a batch", ylabel="points of accuracy lost", title="Trained networks")
plt.show()

# %%
# In your own model
# -----------------
# Compare ``model(x, training=True)`` with ``model(x, training=False)`` on one batch, after saving
# the weights: the first call moves the population. Values a channel are N·H·W after a convolution,
# but neighbouring pixels resemble each other, so the gap is larger than N·H·W promises.
#
# - Batches large enough: read N off the left figure above.
# - Small batches: statistics of more examples (several replicas together), or none of the batch
#   (group or layer normalization).
# - Never compare training loss in training mode with validation loss at inference and call the
#   difference overfitting.
#
# Conclusion
# ----------

for size, ours, theory in zip(sizes, measured, predicted, strict=True):
    print(f"N = {size:4}   gap {ours:.3f}   √(3/2N) {theory:.3f}")
print("points lost at N = 2, 4, 8, ...:", np.round(100 * loss_of_accuracy.mean(0), 1))
assert (np.abs(measured / predicted - 1)[sizes >= 8] < 0.05).all()
mean = loss_of_accuracy.mean(0)
assert mean[0] > 0.2 and 0.003 < mean[4] < 0.08, "tens of points at N = 2, some at N = 32"
assert (mean[:3] / mean[1:4] > 1.3).all() and (mean[:3] / mean[1:4] < 3.5).all(), "about halved"
