"""
Exported in training mode, a model answers by the batch, and learns from whoever asks
======================================================================================

``training=True`` that got into an exported function stays there for ever. The served network
classifies :claim:`90 % <large_batch>` of the test digits correctly in one large batch and
:claim:`9 % <one_by_one>` one image at a time. Each request changes the moving statistics, and
after these even ``training=False`` has lost :claim:`3 points <lost>`. In Keras 3 it happens by
itself: with ``Resizing`` before its norms a network has :claim:`90 % <image_predict>` in
``predict``, and :claim:`9 % <image_served>` one image at a time once ``model.export`` wrote it.

.. symptom:: the exported model predicts otherwise
   :doctor: training_at_inference
   :cause: the exported function, or a layer inside the model, is called with ``training=True``
   :check: ``not np.allclose(loaded.serve(x), predicted, atol=1e-3 * np.std(predicted))`` with
           ``predicted = model.predict(x)``

.. symptom:: the exported model predicts otherwise
   :doctor: untold_is_training
   :cause: Keras 3: an image layer is in the model, and ``model.export`` says nothing of training
   :check: ``not np.allclose(loaded.serve(x), predicted, atol=1e-3 * np.std(predicted))`` with
           ``predicted = model.predict(x)``

.. symptom:: the saved model predicts differently
   :doctor: training_at_inference
   :cause: the exported function calls the model with ``training=True``
   :check: ``not np.allclose(served(x)[:1], served(x[:1]), atol=1e-3 * np.std(served(x)))``, where
           ``served`` is ``loaded.serve`` or the model

.. symptom:: predictions depend on the batch
   :doctor: training_at_inference
   :cause: the exported function, or a layer inside the model, is called with ``training=True``
   :check: ``not np.allclose(served(x)[:1], served(x[:1]), atol=1e-3 * np.std(served(x)))``, where
           ``served`` is ``loaded.serve`` or the model

.. symptom:: statistics change when they should not
   :doctor: training_at_inference
   :cause: serving in training mode updates the moving averages of the served model
   :check: call ``served(x)`` twice and compare its ``variables``
"""

# %%
# Check
# -----
# Ask what is served for one example alone and among others: the answers have to be equal. The
# doctor looks at the model before the export; ``only=["untold_is_training"]`` finds image layers.

import tempfile
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

from bnref import doctor, training
from bnref_gallery import datasets, defects, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%


def answers_by_the_batch(served, x):
    together, alone = np.asarray(served(x))[:1], np.asarray(served(x[:1]))
    return not np.allclose(together, alone, atol=1e-3 * np.std(served(x)))


# %%
# Fix
# ---
# Export a function that says ``training=False``. Keras's ``model.export`` passes no ``training``
# when it writes a SavedModel, so that what a layer says is kept. Write no ``training=True`` inside
# a model.
#
# Wrong
# ^^^^^


def exported_by_keras(model, folder, spec):
    model.export(folder, verbose=False)


# %%
# Right
# ^^^^^


def exported_at_inference(model, folder, spec):
    archive = keras.export.ExportArchive()
    archive.track(model)
    serve = partial(model, training=False)
    archive.add_endpoint("serve", serve, input_signature=[spec])
    archive.write_out(folder, verbose=False)


# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# The model has just been trained, and is in training mode.
#
# .. code-block:: python
#
#    program = torch.export.export(model, (x,))
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    model.eval()
#    program = torch.export.export(model, (x,))
#
# Why
# ---
# It goes wrong at question 3 (used when): the batch's statistics at inference. ``predict`` of Keras
# 3 says ``training=False`` and overrides what is recorded inside. ``export`` to a SavedModel says
# nothing, so that the recorded ``training=True`` goes into the file, or the default of an image
# layer (:doc:`/gallery/pitfalls/plot_resizing_turns_training_on`). To LiteRT it says
# ``training=False``, and is right. tf_keras keeps ``training=True`` in both.
#
# Met in `tensorflow/tensorflow#9796 <https://github.com/tensorflow/tensorflow/issues/9796>`_ and
# `tensorflow/tensorflow#42864 <https://github.com/tensorflow/tensorflow/issues/42864>`_. Why one by
# one: :doc:`/gallery/questions/plot_with_and_without_fails_one_image_at_a_time`.
#
# Experiment
# ----------
# One trained network, exported in several ways, and asked in three: all test digits in one batch,
# 50 by 50 and sorted by class, and one by one.

data = datasets.load("mnist").take(train=4000, test=1000)
SPEC = tf.TensorSpec((None, 28, 28, 1), tf.float32)
TESTS = {"one batch": (1000, 1000), "50 by 50, sorted": (1000, 50), "one by one": (1000, 1)}


def network():
    norm = partial(keras.layers.BatchNormalization, momentum=0.9)
    return models.perceptron(norm, inputs=(28, 28, 1), units=(64, 64))


model = network()
run = training.Run(model)


def accuracies(served):
    """One a test; ``served`` may remember the requests of the one before."""
    found = []
    for name, (count, size) in TESTS.items():
        order = np.argsort(data.y_test) if "sorted" in name else np.arange(count)
        requests = np.split(order, count // size)
        right = [np.argmax(served(data.x_test[i]), 1) == data.y_test[i] for i in requests]
        found.append(np.mean(right))
    return found


# %%


def saved_in_training_mode(model, folder, spec):
    module = tf.Module()
    module.state = [variable.value for variable in model.variables]
    module.serve = tf.function(lambda x: model(x, training=True), [spec])
    tf.saved_model.save(module, folder)


inputs = keras.Input((28, 28, 1))
true_inside = keras.Model(inputs, model(inputs, training=True))
behind_image_layer = keras.Model(inputs, model(keras.layers.Resizing(28, 28)(inputs)))
EXPORTS = {
    "training=False": (exported_at_inference, model),
    "training=True": (saved_in_training_mode, model),
    "Keras, export": (exported_by_keras, model),
    "True within, export": (exported_by_keras, true_inside),
    "image layer, export": (exported_by_keras, behind_image_layer),
    "image layer, archive": (exported_at_inference, behind_image_layer),
}


def loaded(export, model):
    """What a server would load."""
    with tempfile.TemporaryDirectory() as folder:
        export(model, folder, SPEC)
        return tf.saved_model.load(folder)


# %%


def of_one_seed(seed):
    """Accuracies of each way; whether it answers by the batch; whether its statistics moved."""
    restart(model, run.optimizer, network, seed=seed)
    run.train(data.x_train, data.y_train, steps=150, batch_size=64, seed=seed)
    found, by_batch, moves = [], [], []
    for export, whole in EXPORTS.values():
        module = loaded(export, whole)
        state = getattr(module, "state", None) or module.variables
        before = [variable.numpy() for variable in state]
        by_batch.append(answers_by_the_batch(module.serve, data.x_test[:64]))
        found.append(accuracies(module.serve))
        moves.append(any((v.numpy() != old).any() for v, old in zip(state, before, strict=True)))
        if export is saved_in_training_mode:
            left = [variable.numpy() for variable in state]  # by the requests
    wrapped = true_inside, behind_image_layer
    trained = model.get_weights()
    predictions = [each.predict(data.x_test, batch_size=10, verbose=0) for each in wrapped]
    model.set_weights(left)
    predictions.append(model(data.x_test, training=False))
    model.set_weights(trained)
    found += [[np.mean(np.argmax(each, 1) == data.y_test)] * 3 for each in predictions]
    return found, by_batch, moves


seeds = range(scale.at_scale(quick=3, full=10))
runs, by_batch, moves = (np.array(each) for each in zip(*map(of_one_seed, seeds), strict=True))
ways = [*EXPORTS, "True within, predict", "image layer, predict", "False, after True"]

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for k, (test, style) in enumerate(zip(TESTS, ("C4o", "C3v", "C1s"), strict=True)):
    height = np.arange(len(ways)) + 0.2 * (k - 1)
    ax.plot(runs[..., k].T, height, style, ms=6, label=[test] + [""] * (len(seeds) - 1))
ax.set(title="Served", xlabel="test accuracy", ylabel="way of export", xlim=(0, 1))
ax.set(yticks=range(len(ways)), yticklabels=ways, ylim=(len(ways) - 0.5, -0.5))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# Proof
# -----

for way, values in zip(ways, runs.mean(0).round(3), strict=True):
    print(f"{way:21} {', '.join(TESTS)}:", *values)
of = {way: runs[:, k] for k, way in enumerate(ways)}
right, wrong = of["training=False"], of["training=True"]
claim("large_batch", wrong[:, 0], "training=True, in one batch", above=0.8)
claim("one_by_one", wrong[:, 2], "training=True, one by one", below=0.2)
claim("sorted", wrong[:, 1], "training=True, sorted", above=0.1, below=0.5, of="mean")
behind_image = of["image layer, export"][:, 2]
leaks = defects.defect("exported_in_training_mode", behind_image.max() < 0.2)
claim("image_served", behind_image, "image layer, exported, one by one", below=0.2)
claim("image_predict", of["image layer, predict"][:, 0], "image layer, predict", above=0.85)
defects.defect("training_overridden", abs(of["True within, predict"] - right)[:, 0].max() < 0.01)
for name in ("Keras, export", "image layer, archive"):
    assert abs(of[name] - right).max() < 0.005, f"{name}: as right as training=False"
assert of["True within, export"][:, 2].max() < 0.2, "export keeps the True that predict overrides"
assert abs(of["image layer, predict"] - right)[:, 0].max() < 0.01, "predict hides the image layer"
expected = [False, True, False, True, leaks, False]
assert (by_batch == expected).all(), "the check by hand fires on the wrong ones alone"
assert (moves == expected).all(), "and these learn from whoever asks"
lost = (right - of["False, after True"])[:, 0]
claim("lost", lost, "lost by the right function after these requests", above=0.01, of="mean")

# %%

inputs, norm = tf_keras.Input((1,)), tf_keras.layers.BatchNormalization()
old = tf_keras.Model(inputs, tf_keras.Sequential([norm])(inputs, training=True))
old.predict(np.ones((8, 1)), verbose=0)
assert norm.moving_mean.numpy() > 0, "tf_keras keeps training=True in predict"


def found(model, x, cause="training_at_inference"):
    report = doctor.examine(model, x, only=[cause])
    return [finding.evidence for finding in report.findings]


some = data.x_test[:64]
evidence = [*found(true_inside, some), *found(old, np.float32(some[:, 14, 14]))]
print("the doctor, of the wrong models:", *evidence)
assert len(evidence) == 2, "the check fires on the wrong model of Keras 3, and on that of tf_keras"
assert not found(model, some), "and is silent on the right one"
hidden = found(behind_image_layer, some, "untold_is_training")
assert bool(hidden) == leaks, "of an image layer another check tells, before it is exported"
