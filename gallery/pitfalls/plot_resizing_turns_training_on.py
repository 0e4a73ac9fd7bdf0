"""
In Keras 3.15 a resizing layer turns on training mode for the batch norm after it
=================================================================================

A model has a ``Resizing`` layer, and a ``call`` that does not name ``training``. Its batch norm is
then in training mode even in ``predict``: accuracy is :claim:`88 % <one_batch>` in one batch of all
test digits and :claim:`10 % <one_by_one>` one image at a time, and each prediction moves the moving
statistics. ``CenterCrop``, ``RandomFlip`` and all other image layers but ``Rescaling`` do the same.
In Sequential and functional models ``predict`` is right, but ``model(x)`` is wrong, and so is what
``model.export`` writes. With tf_keras all is right.

.. symptom:: predictions depend on the batch
   :doctor: untold_is_training
   :check: ``model(x)`` and ``model(x, training=False)`` are not equal

.. symptom:: statistics change when they should not
   :doctor: untold_is_training
   :check: ``layer.moving_mean`` is another after ``predict`` than before

.. symptom:: the exported model predicts otherwise
   :doctor: untold_is_training
   :check: ``model(x)``, which is what is exported, and ``model.predict(x)`` are not equal

.. symptom:: every prediction is the same
   :doctor: untold_is_training
   :cause: Keras 3: an image layer before the batch norm, and images predicted one by one
   :check: ``model(x)`` and ``model(x, training=False)`` are not equal
"""

# %%
# Check
# -----
# The check looks whether ``model(x)``, which says nothing of training, reaches norms in training
# mode or moves their statistics.

import inspect
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tf_keras

from bnref import doctor
from bnref_gallery import datasets, defects, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Name ``training`` in every ``call`` and pass it on; or resize by ``keras.ops.image.resize``. A
# model that is exported needs more: :doc:`/gallery/pitfalls/plot_exported_in_training_mode`.
#
# Wrong
# ^^^^^


def call_without_training(self, x):
    for part in self.parts:
        x = part(x)
    return x


# %%
# Right
# ^^^^^


def call_with_training(self, x, training=False):
    for part in self.parts:
        x = part(x, training=training)
    return x


# %%
# Why
# ---
# It goes wrong at question 3 (used when): the batch's statistics at inference. The ``call`` of
# :claim:`32 <image_layers>` layers has the default ``training=True``: of those for images, and of
# ``Pipeline``. Keras 3 hands a default on to the layers that are called later, as if somebody had
# said it. Where somebody says ``training``, all is well: ``predict`` says it to Sequential and
# functional models. In ``fit`` the fault does good: it turns on the mode that nobody names.
#
# Met in `keras-team/keras-hub#2776 <https://github.com/keras-team/keras-hub/pull/2776>`_; mended by
# `keras-team/keras#23166 <https://github.com/keras-team/keras/pull/23166>`_, not yet in 3.15.1.
#
# Experiment
# ----------
# An image layer and a batch norm, in models of four kinds. Does a call at inference move the
# population?


def subclassed(library, call, parts):
    """A model of these parts, with this ``call``."""
    model = type("Model", (library.Model,), {"call": call})()
    model.parts = parts
    return model


def functional(library, parts):
    inputs = library.Input((28, 28, 1))
    x = inputs
    for part in parts:
        x = part(x)
    return library.Model(inputs, x)


def model_of(library, kind, parts):
    if kind == "Sequential":
        return library.Sequential(parts)
    if kind == "functional":
        return functional(library, parts)
    named = kind == "named"
    return subclassed(library, call_with_training if named else call_without_training, parts)


CALLS = {
    "predict": lambda model, x: model.predict(x, verbose=0),
    "model(x)": lambda model, x: model(x),
    "model(x, training=False)": lambda model, x: model(x, training=False),
}


def moves(library, layer, kind, call):
    norm, images = library.layers.BatchNormalization(), np.ones((8, 28, 28, 1), "float32")
    model = model_of(library, kind, [layer, norm])
    if not norm.built:
        norm.build((None, None, None, 1))
    model.compile(run_eagerly=True)
    CALLS[call](model, images)
    return bool(norm.moving_mean.numpy().any())


# %%

table = {}
for library in (keras, tf_keras):
    image = library.layers
    layers = [image.Resizing(14, 14), image.CenterCrop(14, 14), image.RandomFlip()]
    layers += [image.RandomContrast(0.1), image.Rescaling(2)]
    kinds = ["Sequential", "functional", "not named"]
    kinds += ["named"] if library is keras else []  # Resizing of Keras 2 refuses the argument
    for layer in layers:
        for kind in kinds:
            case = library.__name__, type(layer).__name__, kind
            table[case] = [moves(library, layer, kind, call) for call in CALLS]
            print("{:9}{:15}{:11}".format(*case), *zip(CALLS, table[case], strict=True))

# %%
# What it costs.

data = datasets.load("mnist").take(train=3000, test=1000)


def network(kind):
    parts = [keras.layers.Resizing(14, 14), keras.layers.Flatten(), keras.layers.Dense(64)]
    parts += [keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU()]
    return model_of(keras, kind, [*parts, keras.layers.Dense(10)])


def built(kind):
    model = network(kind)
    model(data.x_test[:1], training=False)
    return model


def accuracies(kind):
    """Test accuracy by ``predict``: 1,000 images in one batch, ten at a time, one by one."""
    model, rows = built(kind), []
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    for seed in seeds:
        restart(model, model.optimizer, partial(built, kind), seed=seed)
        model.fit(data.x_train, data.y_train, batch_size=64, epochs=3, verbose=0)
        chosen = [model.predict(data.x_test, size, verbose=0).argmax(1) for size in (1000, 10, 1)]
        rows.append([np.mean(each == data.y_test) for each in chosen])
    return np.array(rows)


seeds = range(scale.at_scale(quick=3, full=10))
wrong, right = accuracies("not named"), accuracies("named")

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for runs, style, name in ((wrong, "C1X", "not named"), (right, "C0o", "named")):
    label = [f"training {name}"] + [None] * (len(seeds) - 1)
    ax.plot(["1,000", "10", "1"], runs.T, style, label=label)
ax.set(title="Accuracy by predict", xlabel="batch size", ylabel="test accuracy", ylim=(0, 1))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# Which calls move the population, the accuracies, and the doctor on both models.


def says_true(layer):
    """Whether the layer's call has the default ``training=True``."""
    parameter = inspect.signature(layer.call).parameters.get("training")
    return parameter is not None and parameter.default is True


classes = {each for each in vars(keras.layers).values() if isinstance(each, type)}
layers = {each for each in classes if issubclass(each, keras.Layer)}
saying = {each.__name__ for each in layers if says_true(each)}
shows = any(map(any, table.values()))
defects.defect("training_leaks", shows)
for (library, layer, kind), row in table.items():
    leaks = shows and library == "keras" and layer != "Rescaling" and kind != "named"
    expected = [leaks and kind == "not named", leaks, False]
    assert row == expected, f"{library}, {layer}, {kind}: predict, model(x), training=False"
if shows:
    assert {"Resizing", "CenterCrop", "RandomFlip", "RandomContrast", "Pipeline"} <= saying
    claim("image_layers", len(saying), "layers that say training=True", above=30, below=40)
    claim("one_batch", wrong[:, 0], "not named, in one batch", above=0.8)
    claim("one_by_one", wrong[:, 2], "not named, one image at a time", below=0.2)
right_apart = np.abs(right[:, 0] - right[:, 1])
claim("right", right[:, 0], "test accuracy, named", above=0.8)
claim("right_apart", right_apart, "named, in one batch against 10", below=0.01)


def found(model):
    report = doctor.examine(model, data.x_test, only=["untold_is_training"])
    return [finding.evidence for finding in report.findings]


wrong, right = found(built("not named")), found(built("named"))
print("the doctor, of the wrong model:", *wrong)
assert bool(wrong) == shows, "the check fires where training is not named"
assert not right, "and is silent where it is"
