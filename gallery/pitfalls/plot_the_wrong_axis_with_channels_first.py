"""
With channels first, the default axis normalizes image columns instead of channels
==================================================================================

``BatchNormalization()`` normalizes the last axis. In images of shape (N, C, H, W) these are the
columns: there is no error, but 28 γ's for 8 channels. A small network then classifies
:claim:`81 % <wrong>` of the test digits correctly, with ``axis=1`` :claim:`90 % <right>`. With
digits that are moved 4 pixels to the right it loses another :claim:`33 points <moved>`: where each
column is treated differently, a pattern is not recognized wherever it stands, which is what a
convolution is for.

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

.. symptom:: an error message
   :cause: "int() argument must be … not 'list'": tf_keras writes ``axis=[3]``, or takes several
           axes, and Keras 3 takes one number
   :check: ``layer.get_config()["axis"]`` is a list; give its one number
   :likelihood: sometimes
   :question: 1
"""

# %%
# Check
# -----
# A convolution before the norm says where its channels are; the check compares that with the axis
# of the norm. Images of another width give an error with the wrong axis, and none with the right.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

from bnref import doctor, training
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Say ``axis=1``, or keep the channels last throughout. The layers of bnref refuse any axis but the
# last.
#
# Wrong
# ^^^^^


def norm_of_columns():
    return keras.layers.BatchNormalization(momentum=0.9)


# %%
# Right
# ^^^^^


def norm_of_channels():
    return keras.layers.BatchNormalization(axis=1, momentum=0.9)


# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    norm = nn.BatchNorm1d(x.shape[1])
#    y = norm(x)  # x: (N, steps, channels)
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# ``BatchNorm1d`` takes the second axis for the channels. A layer made for ``x.shape[2]`` channels
# says so by an error, unless there are as many steps.
#
# .. code-block:: python
#
#    norm = nn.BatchNorm1d(x.shape[2])
#    y = norm(x.transpose(1, 2)).transpose(1, 2)
#
# Why
# ---
# It goes wrong at question 1 (whose statistics): those of a column over all channels are used, in
# place of a channel's over all pixels. `keras-team/keras#1921
# <https://github.com/keras-team/keras/issues/1921>`_ has the rule, and a report of vertical stripes
# in what a network predicts if its training is stopped early. It can be harmless: in
# `DCASE-REPO/dcase2018_baseline#18 <https://github.com/DCASE-REPO/dcase2018_baseline/issues/18>`_
# the accuracy was 59.7 % with the wrong axis and 59.9 % with the right one, within the spread.
#
# Experiment
# ----------
# TensorFlow does not convolve channels first on a CPU, so the axes are moved before and after the
# norm. What the norm gets is what it would get in a network with channels first.

data = datasets.load("mnist").take(train=3000, test=1000)
NORMS = {"axis=-1": norm_of_columns, "axis=1": norm_of_channels, "no norm": None}
MOVES = range(0, 7, 2)


def network(norm):
    layers = [keras.Input((28, 28, 1))]
    for filters in (8, 16, 32):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same"))
        if norm:
            layers += [keras.layers.Permute((3, 1, 2)), norm(), keras.layers.Permute((2, 3, 1))]
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def accuracies(norm):
    """Test accuracies on digits moved 0 to 6 pixels to the right, a row a seed."""
    model, rows = network(norm), []
    run = training.Run(model, keras.optimizers.Adam(3e-3))  # traced once for all seeds
    moved = np.concatenate([np.roll(data.x_test, pixels, axis=2) for pixels in MOVES])
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(model, run.optimizer, partial(network, norm), seed=seed)
        run.train(data.x_train, data.y_train, steps=150, batch_size=64, seed=seed)
        classes = np.argmax(model.predict(moved, batch_size=500, verbose=0), -1)
        rows.append(np.mean(classes.reshape(len(MOVES), -1) == data.y_test, axis=1))
    return np.array(rows)


runs = {name: accuracies(norm) for name, norm in NORMS.items()}

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for (name, values), style in zip(runs.items(), ("C1X-", "C0o-", "C4:"), strict=True):
    ax.plot(MOVES, values.mean(0), style, label=name)
    ax.fill_between(MOVES, values.min(0), values.max(0), color=style[:2], alpha=0.2)
ax.set(title="Channels first, by the axis of the norm", xlabel="digits moved by, pixels")
ax.set(ylabel="test accuracy", ylim=(0, 1), xticks=MOVES)
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# The shape of γ, and images of another width.


def shape_and_error(norm):
    layer = norm()
    layer(np.zeros((2, 8, 28, 28), "float32"))  # (N, C, H, W)
    try:
        layer(np.zeros((2, 8, 28, 32), "float32"))
    except ValueError as error:
        return tuple(layer.gamma.shape), str(error)
    return tuple(layer.gamma.shape), ""


shape_of_columns, error_of_columns = shape_and_error(norm_of_columns)
shape_of_channels, error_of_channels = shape_and_error(norm_of_channels)
print("axis=-1:", shape_of_columns, error_of_columns)
print("axis=1:", shape_of_channels, error_of_channels)

# %%
# Proof
# -----
# Accuracies on digits moved by 0, 2, 4, 6 pixels, shapes, and the doctor on both models.

for name, values in runs.items():
    print(f"{name}: test accuracy, digits moved by 0, 2, 4, 6 pixels:", *values.mean(0).round(3))
wrong, right, without = runs.values()
claim("wrong", wrong[:, 0], "test accuracy, axis=-1", above=0.5, below=0.93)
claim("right", right[:, 0], "test accuracy, axis=1", above=0.75)
lost = {name: values[:, 0] - values[:, 2] for name, values in runs.items()}
claim("moved", lost["axis=-1"], "lost by moving 4 pixels, axis=-1", above=0.2, of="mean")
more = lost["axis=-1"] - lost["axis=1"]
claim("more_than_right", more, "lost by moving, more than with axis=1", above=0.1, of="mean")
assert (right[:, 0] > wrong[:, 0]).all(), "the right axis is better, with every seed"
gained = (wrong - without)[:, 0]
claim("gained", gained, "gained over no norm, axis=-1", below=0.06, of="mean")
assert shape_of_columns == (28,) and error_of_columns, "a γ a column, and an error for more columns"
assert shape_of_channels == (8,) and not error_of_channels, "a γ a channel, and any width"


def found(norm):
    some = data.x_test[:64], data.y_test[:64]
    report = doctor.examine(network(norm), some, only=["wrong_axis"])
    return [finding.evidence for finding in report.findings]


print("the doctor, of axis=-1:", *found(norm_of_columns))
assert found(norm_of_columns), "the check fires on the wrong axis"
assert not found(norm_of_channels), "and is silent on the right one"
