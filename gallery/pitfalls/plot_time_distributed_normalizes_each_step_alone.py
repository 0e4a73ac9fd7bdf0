"""
``TimeDistributed(BatchNormalization())`` normalizes each time step alone
=========================================================================

Keras calls the layer once a step, so that in training each step has mean 0 by itself, and the
moving average gets 28 updates for 28 steps: with momentum 0.9 the last step makes up
:claim:`10 % <last>` of it and the first :claim:`0.6 % <first>`. At inference the same moving
statistics serve all steps. A network that gets digits row by row has a test accuracy of
:claim:`23 % <wrong>` this way, and :claim:`65 % <right>` with ``BatchNormalization()`` on the whole
sequence.

.. symptom:: validation far worse than training
   :cause: ``TimeDistributed`` around batch norm: one population for steps that differ
   :check: look for ``TimeDistributed`` with a norm in it in ``model.summary(expand_nested=True)``
   :likelihood: sometimes
   :question: 1
"""

# %%
# Check
# -----
# In training, is the mean of each step 0, or that of all steps together? Give the layer a batch
# whose mean rises from step to step.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np

from bnref import training
from bnref_gallery import datasets, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart


def means_of_steps(layer, steps=28):
    """The mean of each step of what the layer puts out in training; the input's rises by 1."""
    random = np.random.default_rng(0)
    x = random.normal(np.arange(steps)[:, None], 1, (64, steps, 1)).astype("float32")
    return np.asarray(layer(x, training=True)).mean(axis=(0, 2))


# %%
# Fix
# ---
# Batch norm takes (N, steps, channels) as it is: a channel's statistics are those of all examples
# and steps. Where sequences are padded, mask it: :doc:`/gallery/variants/plot_masked_sequences`.
# Layer or RMS normalization looks at one step of one example, and may stand in ``TimeDistributed``.
#
# Wrong
# ^^^^^


def norm_wrong():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    return keras.layers.TimeDistributed(norm)


# %%
# Right
# ^^^^^


def norm_right():
    return keras.layers.BatchNormalization(momentum=0.9)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics), as those of one step are used in training, and at
# question 2 (remembered how): in one training step the average is updated T times,
#
# .. math:: P \leftarrow \rho^T P + (1 - \rho) \sum_{t=1}^T \rho^{T - t} B_t ,
#
# so that it remembers the last steps of the last batch. Batch norm inside of a recurrent cell has
# the same trouble. Cooijmans et al. 2017, `arXiv 1603.09025 <https://arxiv.org/abs/1603.09025>`_,
# section 3, give each step a population of its own there. Layer normalization was made for such
# networks: Ba et al. 2016, `arXiv 1607.06450 <https://arxiv.org/abs/1607.06450>`_, section 3.1.
#
# Met in `tensorflow/tensorflow#30109 <https://github.com/tensorflow/tensorflow/issues/30109>`_ and
# `keras-team/keras#16239 <https://github.com/keras-team/keras/issues/16239>`_.
#
# Experiment
# ----------
# A digit is a sequence of 28 rows of 28 pixels. Two dense layers, each with a norm, are the
# same for each row, and the mean over the rows follows. Training takes 150 steps of Adam.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[..., 0], data.x_test[..., 0]
NORMS = {
    "batch norm in TimeDistributed": norm_wrong,
    "batch norm": norm_right,
    "layer norm": keras.layers.LayerNormalization,
    "RMS norm": keras.layers.RMSNormalization,
}


def network(norm):
    layers = [keras.Input((28, 28))]
    for _ in range(2):
        layers += [keras.layers.Dense(32), norm(), keras.layers.ReLU()]
    layers += [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def accuracies(norm):
    """Of a training batch in training mode, and of the test; a row a seed."""
    model, rows = network(norm), []
    run = training.Run(model, keras.optimizers.Adam(0.01))
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(model, run.optimizer, partial(network, norm), seed=seed)
        run.train(x_train, data.y_train, steps=150, batch_size=64, seed=seed)
        tested = training.evaluate(model, x_test, data.y_test)[1]
        classes = np.argmax(model(x_train[:500], training=True), axis=-1)
        rows.append((np.mean(classes == data.y_train[:500]), tested))
    return np.array(rows)


results = {name: accuracies(norm) for name, norm in NORMS.items()}

# %%
# What the layer remembers of 28 steps in one call: each of 28 channels has a mean of 1 in a step
# of its own, and 0 in the others.


def weights_of_steps(layer):
    layer(np.tile(np.eye(28, dtype="float32"), (8, 1, 1)), training=True)
    mean = next(each for each in layer.variables if each.name == "moving_mean")
    return mean.numpy()


remembered = {"wrong": weights_of_steps(norm_wrong()), "right": weights_of_steps(norm_right())}
out = {"wrong": means_of_steps(norm_wrong()), "right": means_of_steps(norm_right())}

# %%

fig, (steps, accuracy) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
for name, style in (("wrong", "C1X-"), ("right", "C0o-")):
    steps.plot(range(1, 29), 100 * remembered[name], style, ms=4)
for place, (rows, style) in enumerate(
    zip(results.values(), ("C1X", "C0o", "C2s", "C4^"), strict=True)
):
    accuracy.plot(rows[:, 1], np.full(len(rows), place), style, ms=7)
steps.set(title="Remembered of each step", xlabel="time step", ylabel="weight, %", ylim=(0, None))
accuracy.set(title="Test accuracy", xlabel="test accuracy", xlim=(0, 1), ylim=(3.5, -0.5))
accuracy.set(yticks=range(4), yticklabels=[name.replace(" in ", "\nin ") for name in NORMS])
accuracy.set_ylabel("norm")
plt.show()

# %%
# Proof
# -----
# Outputs, weights and accuracies.

for name, rows in results.items():
    print(f"{name:30} training mode {rows[:, 0].round(3)}, test {rows[:, 1].round(3)}")
claim("last", remembered["wrong"][-1], "weight of the last step", above=0.09, below=0.11)
claim("first", remembered["wrong"][0], "weight of the first step", above=0.004, below=0.007)
assert np.allclose(remembered["right"], 0.1 / 28, rtol=1e-3), "on the whole, each step counts alike"
assert np.abs(out["wrong"]).max() < 0.01, "the check fires: each step has mean 0"
assert np.ptp(out["right"]) > 2, "and is silent on the whole sequence: the means differ as before"
wrong, right, layer_norm, rms = (rows[:, 1] for rows in results.values())
claim("wrong", wrong, "test accuracy, TimeDistributed", above=0.05, below=0.75)
claim("right", right, "test accuracy, on the whole sequence", above=0.5)
assert wrong.max() < right.min() - 0.05, "with every seed the whole sequence is better"
assert min(layer_norm.min(), rms.min()) > wrong.max(), "and so is what looks at no batch"
