"""
With channels first, the default axis normalizes image columns instead of channels
==================================================================================

``BatchNormalization()`` normalizes the last axis. In images (N, C, H, W) these are the columns: no
error, but **28 γ's for 8 channels**. A small network of digits is then **no better than without**
batch norm, and if the digits are moved 4 pixels to the right it loses **more than 20 points**, over
10 more than with ``axis=1``: where columns are treated differently, a pattern is not read alike
wherever it stands, which is what a convolution is for. Networks differ in how much it costs them.

The symptom: worse than it ought to be, stripes in generated images, weights of odd shapes, or an
error as soon as the width of the images changes. Question 1, *whose statistics*, is answered
wrongly: those of a column over all channels, instead of a channel's over all pixels.

.. symptom:: no better than without batch norm
   :doctor: wrong_axis
   :cause: channels first and ``axis=-1``: image columns are normalized
   :check: ``[norm.channels for norm in bnref.norms.find(model)]`` has the width of the images,
           not the number of channels

.. symptom:: numbers differ from PyTorch
   :doctor: wrong_axis
   :cause: a port that keeps (N, C, H, W) and leaves ``axis`` at -1
   :check: ``[norm.channels for norm in bnref.norms.find(model)]`` has the width of the images,
           not the number of channels

.. symptom:: an error message
   :doctor: wrong_axis
   :cause: images of another width, and normalized columns instead of channels
   :check: ``[norm.channels for norm in bnref.norms.find(model)]`` has the width of the images,
           not the number of channels
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

from bnref import doctor, training
from bnref_gallery import datasets, scale

# %%
# TensorFlow does not convolve channels first on a CPU, so the axes are moved before and after the
# norm. What it gets is what it would get in a network with channels first.

data = datasets.load("mnist").take(train=3000, test=500)
NORMS = {
    "axis=-1": lambda: keras.layers.BatchNormalization(momentum=0.9),  # wrong
    "axis=1": lambda: keras.layers.BatchNormalization(axis=1, momentum=0.9),  # right
    "no norm": None,
}


def network(norm):
    layers = [keras.Input((28, 28, 1))]
    for filters in (8, 16, 32):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same"))
        if norm:
            layers += [keras.layers.Permute((3, 1, 2)), norm(), keras.layers.Permute((2, 3, 1))]
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    return keras.Sequential(
        [*layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    )


def accuracies(norm, seed):
    """Test accuracies on digits moved 0 to 6 pixels to the right."""
    keras.utils.set_random_seed(seed)
    model, options = network(norm), {"optimizer": keras.optimizers.Adam(3e-3), "seed": seed}
    training.train(model, data.x_train, data.y_train, steps=150, batch_size=64, **options)
    moved = [np.roll(data.x_test, pixels, axis=2) for pixels in range(0, 7, 2)]
    return [training.evaluate(model, x, data.y_test)[1] for x in moved]


seeds = range(scale.at_scale(quick=3, full=10))
runs = {name: np.array([accuracies(norm, seed) for seed in seeds]) for name, norm in NORMS.items()}
fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for (name, values), style in zip(runs.items(), ("C1X-", "C0o-", "C4:"), strict=True):
    ax.plot(range(0, 7, 2), values.mean(0), style, label=name)
    ax.fill_between(range(0, 7, 2), values.min(0), values.max(0), color=style[:2], alpha=0.2)
ax.set(title="Test accuracy", xlabel="digits moved by, pixels", ylim=(0, 1), xticks=range(0, 7, 2))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# To check your own model, look at the shapes, or give it wider images. A convolution before the
# norm says where its channels are, and ``bnref.doctor.examine(model, data, only=["wrong_axis"])``
# compares the two.

images = np.zeros((2, 8, 28, 28), "float32")  # (N, C, H, W)
shapes, errors = {}, {}
for name in ("axis=-1", "axis=1"):
    layer = NORMS[name]()
    layer(images)
    shapes[name] = tuple(layer.gamma.shape)
    try:
        layer(np.zeros((2, 8, 28, 32), "float32"))
    except ValueError as error:
        errors[name] = str(error)
print(shapes, errors)

# %%
# The fix is ``axis=1``, or channels last throughout. The layers of bnref refuse any axis but the
# last. `keras-team/keras#1921 <https://github.com/keras-team/keras/issues/1921>`_ has the rule, and
# a report of vertical stripes in what a network predicts if its training is stopped early. It can
# be harmless: in `DCASE-REPO/dcase2018_baseline#18
# <https://github.com/DCASE-REPO/dcase2018_baseline/issues/18>`_ the accuracy was 59.7 % with the
# wrong axis and 59.9 % with the right one, within the spread of the runs.
#
# Conclusion
# ----------

for name, values in runs.items():
    print(f"{name}: test accuracy, digits moved by 0, 2, 4, 6 pixels:", *values.mean(0).round(3))
wrong, right, without = (values.mean(0) for values in runs.values())
assert shapes == {"axis=-1": (28,), "axis=1": (8,)} and list(errors) == ["axis=-1"]
assert wrong[0] - without[0] < 0.06 and right[0] > wrong[0]
assert wrong[0] - wrong[2] > max(0.2, right[0] - right[2] + 0.1)


def found(name):
    some = data.x_test[:64], data.y_test[:64]
    report = doctor.examine(network(NORMS[name]), some, only=["wrong_axis"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of axis=-1:", *found("axis=-1"))
assert found("axis=-1"), "the check fires on the wrong axis"
assert not found("axis=1"), "and is silent on the right one"
