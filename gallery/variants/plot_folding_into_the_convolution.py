"""
Folding batch norm into the convolution: is it exact, and what does it save?
============================================================================

It is exact to rounding: outputs of trained networks change by **a millionth** of the largest, and
no accuracy changes. It saves a pass over every activation and half of the norm's vectors; what that
is in time stands below. What goes wrong is another ε, a forgotten mean, σ² for σ, or an activation
in between.

Question 3, *used when*: at inference the population's statistics are constants, so batch norm is
y = ax + c for each channel, and the convolution before it can do that itself.
"""

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import folding, training
from bnref_gallery import datasets, models, scale, timing

# %%
# The formula
# -----------
#
# .. math:: W' = W \frac{\gamma}{\sqrt{\sigma_P^2 + \varepsilon}}, \qquad
#           b' = \beta + (b - \mu_P) \frac{\gamma}{\sqrt{\sigma_P^2 + \varepsilon}}
#
# (Jacob et al. 2018, arXiv 1712.05877, section 3.2). :func:`bnref.folding.fold` does it for one
# layer, :func:`bnref.folding.fold_model` for a functional or Sequential
# model.

data = datasets.load("mnist").take(train=3000, test=1000)
NORM = partial(bnref.BatchNorm, momentum=0.9)


def accuracy(outputs):
    return np.mean(outputs.argmax(1) == data.y_test)


def trained(seed):
    """A network, and the largest difference that folding makes, every 20 steps of its training."""
    keras.utils.set_random_seed(seed)
    model = models.three_convolutions(NORM, image_shape=(28, 28, 1), filters=(8, 16, 32))

    def measure(run):
        plain, folded = (f(data.x_test).numpy() for f in (model, folding.fold_model(model).model))
        error = np.abs(folded - plain).max() / np.abs(plain).max()
        return {"accuracy": accuracy(plain), "folded": accuracy(folded), "error": error}

    batch = {"steps": 100, "batch_size": 64, "seed": seed}
    return model, training.train(
        model, data.x_train, data.y_train, **batch, every=20, measure=measure
    )


runs = [trained(seed) for seed in range(scale.at_scale(quick=3, full=10))]
fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.2), layout="constrained")
for _, history in runs:
    left.plot(history["step"], history["accuracy"], "C0", lw=1)
    left.plot(history["step"], history["folded"], "C1x")
    right.semilogy(history["step"], history["error"], "C1o-", lw=1, ms=4)
left.set(xlabel="training step", title="Test accuracy (folded: ×)")
right.set(xlabel="training step", title="Difference / largest output", ylim=(1e-8, 1e-5))
plt.show()

# %%
# Done wrongly
# ------------
# Each fault alone. The accuracy may survive what the outputs show, so compare outputs.

model = runs[0][0]
norms = [layer for layer in model.layers if isinstance(layer, bnref.BatchNorm)]
FAULTS = {
    "none": lambda norm: None,
    "PyTorch's ε": lambda norm: setattr(norm, "epsilon", 1e-5),
    "mean forgotten": lambda norm: norm.moving_mean.assign(0 * norm.moving_mean),
    "σ² for σ": lambda norm: norm.moving_variance.assign(norm.moving_variance**2),
}
outputs, weights, found = model(data.x_test).numpy(), model.get_weights(), {}
for name, change in FAULTS.items():
    for norm in norms:
        change(norm)
    y = folding.fold_model(model).model(data.x_test).numpy()
    model.set_weights(weights)
    for norm in norms:
        norm.epsilon = 1e-3
    difference = np.abs(y - outputs).max() / np.abs(outputs).max()
    found[name] = difference, accuracy(y)
    print(f"fault: {name:15} difference {difference:8.1e}   accuracy {found[name][1]:.3f}")

# %%
# An activation between the two cannot be folded, nor a norm that is no fixed line.

try:
    folding.fold(keras.layers.Conv2D(8, 3, activation="relu"), bnref.BatchNorm())
except ValueError as error:
    print(error)

# %%
# What it saves
# -------------
# Times are shown and not asserted; they belong to the machine at the foot.

new, x = folding.fold_model(model).model, tf.constant(data.x_test[:256])
calls = {"with batch norm": tf.function(model), "folded": tf.function(new)}
seconds = timing.interleaved_medians(calls, x, rounds=21)
for name, each in zip(calls, (model, new), strict=True):
    print(
        f"{name:15} {1e3 * seconds[name]:6.2f} ms for 256 images, {each.count_params():,} numbers"
    )

# %%
# Conclusion
# ----------

errors = np.array([history["error"] for _, history in runs])
assert errors.max() < 5e-6, f"exact to rounding: {errors.max()}"
assert all(np.abs(run["accuracy"] - run["folded"]).max() < 0.002 for _, run in runs)
assert found["none"][0] < 5e-6 and found["PyTorch's ε"][0] > 1e-3
assert max(found[name][1] for name in ("mean forgotten", "σ² for σ")) < found["none"][1] - 0.1
