"""
Exported in training mode, a model answers by the batch, and learns from whoever asks
======================================================================================

``training=True`` written into an exported function stays there for ever. The served network reads
**about 90 %** of the test digits in one large batch, **one in ten** if they come one by one, about
three in ten if they come sorted. And every request moves its population: after these requests even
the right function of the same file has lost some points. In Keras 3 the fault can hide: where a
model contains ``base(inputs, training=True)``, ``predict`` overrides it and is right, and
``export`` keeps it and is wrong. tf_keras keeps it in both.

The symptom: a served model that is good in large tests and useless in use. Question 3, *used when*,
is answered with the batch's statistics at inference.

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

import tempfile
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tf_keras

from bnref import doctor, training
from bnref_gallery import datasets, defects, models, scale

data = datasets.load("mnist").take(train=4000, test=500)
TESTS = {"one batch": (500, False), "50 by 50, sorted": (50, True), "one by one": (1, False)}


def trained(seed):
    keras.utils.set_random_seed(seed)
    norm = partial(keras.layers.BatchNormalization, momentum=0.9)
    model = models.perceptron(norm, inputs=(28, 28, 1), units=(64, 64))
    training.train(model, data.x_train, data.y_train, steps=150, batch_size=64, seed=seed)
    return model


def accuracies(served):
    """One a test; ``served`` may remember the requests of the one before."""
    for size, by_class in TESTS.values():
        order = np.argsort(data.y_test) if by_class else np.arange(500)
        requests = np.split(order, 500 // size)
        yield np.mean([np.argmax(served(data.x_test[i]), 1) == data.y_test[i] for i in requests])


# %%
# Two functions in one file, and two exports by Keras.


def served(model):
    """The accuracies of what a server would load: for each way, of each test."""
    inputs, image = keras.Input((28, 28, 1)), tf.TensorSpec((None, 28, 28, 1), tf.float32)
    inner, module = keras.Model(inputs, model(inputs, training=True)), tf.Module()  # wrong
    module.state = [variable.value for variable in model.variables]
    module.wrong = tf.function(lambda x: model(x, training=True), [image])
    module.right = tf.function(lambda image: model(image, training=False), [image])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, f"{folder}/functions")
        model.export(f"{folder}/model", verbose=False)  # right
        inner.export(f"{folder}/inner", verbose=False)
        names = "functions", "model", "inner"
        functions, whole, inner_served = (tf.saved_model.load(f"{folder}/{n}") for n in names)
    ways = functions.right, functions.wrong, functions.right, whole.serve, inner_served.serve
    yield from ([*accuracies(way)] for way in ways)
    predicted = inner.predict(data.x_test, batch_size=1, verbose=0)
    yield [np.mean(np.argmax(predicted, 1) == data.y_test)] * 3


seeds = range(scale.at_scale(quick=3, full=10))
runs = np.array([[*served(trained(seed))] for seed in seeds])
ways = ["training=False", "training=True", "False, after that", "Keras, export"]
ways += ["True within, export", "True within, predict"]

fig, ax = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
for k, (test, style) in enumerate(zip(TESTS, ("C4o", "C3v", "C1s"), strict=True)):
    height = np.arange(6) + 0.2 * (k - 1)
    ax.plot(runs[..., k].T, height, style, ms=6, label=[test] + [""] * (len(seeds) - 1))
ax.set(xlabel="accuracy", xlim=(0, 1), yticks=range(6), yticklabels=ways, ylim=(5.5, -0.5))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# To check your own model, ask for one example alone and among others: the answers must be equal to
# a thousandth of their deviation, and the variables the same as before. Before it is exported,
# ``bnref.doctor.examine(model, data, only=["training_at_inference"])`` finds it. The fix:
# ``training=False`` in what is exported, and no ``training=True`` inside a model. Why it fails one
# by one: :doc:`/gallery/questions/plot_with_and_without_fails_one_image_at_a_time`. Met in
# `tensorflow/tensorflow#9796 <https://github.com/tensorflow/tensorflow/issues/9796>`_; the symptom
# also in `tensorflow/tensorflow#42864 <https://github.com/tensorflow/tensorflow/issues/42864>`_.
#
# Conclusion
# ----------

for way, values in zip(ways, runs.mean(0).round(3), strict=True):
    print(
        f"{way:21}", *(f"{test}: {value:.3f}  " for test, value in zip(TESTS, values, strict=True))
    )
right, wrong, after, keras_export, inner_export, inner_predict = runs.transpose(1, 0, 2)
assert abs(wrong[:, 0] - right[:, 0]).max() < 0.05 and wrong[:, 2].max() < 0.2
assert 0.15 < wrong[:, 1].mean() < 0.5 and (right - after).mean() > 0.02
assert np.ptp(right, axis=1).max() < 0.005 and right.min() > 0.85
assert abs(keras_export - right).max() < 0.005 and abs(inner_export - wrong).max() < 0.1
hides = abs(inner_predict - right).max() < 0.005
defects.defect("training_overridden", hides)
inputs, norm = tf_keras.Input((1,)), tf_keras.layers.BatchNormalization()
old = tf_keras.Model(inputs, tf_keras.Sequential([norm])(inputs, training=True))
old.predict(np.ones((8, 1)), verbose=0)
assert norm.moving_mean.numpy() > 0, "tf_keras keeps training=True in predict"


def found(model, x):
    report = doctor.examine(model, x, only=["training_at_inference"])
    return [finding.evidence for finding in report.findings]


model, inputs = trained(seed=0), keras.Input((28, 28, 1))
wrong = keras.Model(inputs, model(inputs, training=True))
evidence = [*found(wrong, data.x_test[:64]), *found(old, np.float32(data.x_test[:64, 14, 14]))]
print("the doctor, of the wrong models:", *evidence)
assert len(evidence) == 2, "the check fires on the wrong model of Keras 3, and on that of tf_keras"
assert not found(model, data.x_test[:64]), "and is silent on the right one"
