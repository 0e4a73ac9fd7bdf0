"""
In Keras 3.15 a resizing layer turns on training mode for the batch norm after it
=================================================================================

A model has a ``Resizing`` layer, and a ``call`` that does not name ``training``: its batch norm is
then in training mode even in ``predict``. It reads **fewer than 20 %** of the digits that come one
by one, of which it reads more than 80 % in one batch, and each prediction moves the population. Of
a Sequential model ``predict`` is right, and ``model(x)`` is wrong. ``CenterCrop``, ``RandomFlip``
and ``RandomContrast`` do the same. With tf_keras all is right.

The symptom: a prediction depends on the rest of the batch, and predicting changes the model.
Question 3, *used when*, is answered wrongly: the batch's at inference. The cause: the ``call`` of
these layers has the default ``training=True``, and Keras 3 hands a default on to the layers called
later, as if somebody had said it. Where somebody says it, all is well.

.. symptom:: predictions depend on the batch
   :doctor: untold_is_training
   :check: ``model(x)`` and ``model(x, training=False)`` are not equal

.. symptom:: statistics change when they should not
   :doctor: untold_is_training
   :check: ``layer.moving_mean`` is another after ``predict`` than before

.. symptom:: every prediction is the same
   :doctor: untold_is_training
   :cause: Keras 3: an image layer before the batch norm, and images predicted one by one
   :check: ``model(x)`` and ``model(x, training=False)`` are not equal
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
import tf_keras

from bnref import doctor
from bnref_gallery import datasets, defects, scale

# %%
# An image layer and a batch norm, in three models. Does a call at inference move the population?


def models_of(library):
    class NotNamed(library.Model):  # wrong with Keras 3
        def __init__(self, *parts):
            super().__init__()
            self.parts = parts

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return x

    class Named(NotNamed):  # right
        def call(self, x, training=False):
            for part in self.parts:
                x = part(x, training=training)
            return x

    found = {"Sequential": lambda *parts: library.Sequential(parts), "not named": NotNamed}
    return found | ({"named": Named} if library is keras else {})  # Resizing of Keras 2 refuses


CALLS = [lambda model, x: model.predict(x, verbose=0), lambda model, x: model(x)]
CALLS += [lambda model, x: model(x, training=False)]


def moves(library, layer, kind, call):
    norm, images = library.layers.BatchNormalization(), np.ones((8, 28, 28, 1), "float32")
    model = models_of(library)[kind](layer, norm)
    norm.build((None, None, None, 1))
    model.compile(run_eagerly=True)
    call(model, images)
    return bool(norm.moving_mean.numpy().any())


table = {}
for library in (keras, tf_keras):
    image = library.layers
    layers = [image.Resizing(14, 14), image.CenterCrop(14, 14), image.RandomFlip()]
    for layer in [*layers, image.RandomContrast(0.1), image.Rescaling(2)]:
        for kind in models_of(library):
            case = library.__name__, type(layer).__name__, kind
            table[case] = [moves(library, layer, kind, call) for call in CALLS]
            print("{:9}{:15}{:11} predict, (x), (x, training=False):".format(*case), *table[case])

# %%
# What it costs. In ``fit`` the fault does good: it turns on the training mode that nobody names.

data = datasets.load("mnist").take(train=3000, test=300)


def network(kind):
    parts = [keras.layers.Resizing(14, 14), keras.layers.Flatten(), keras.layers.Dense(64)]
    parts += [keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU()]
    return models_of(keras)[kind](*parts, keras.layers.Dense(10))


def accuracies(kind, seed):
    """Test accuracy by ``predict`` in batches of 300, 10 and 1."""
    keras.utils.set_random_seed(seed)
    model = network(kind)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    model.fit(data.x_train, data.y_train, batch_size=64, epochs=3, verbose=0)
    chosen = [model.predict(data.x_test, n, verbose=0).argmax(1) for n in (300, 10, 1)]
    return [np.mean(each == data.y_test) for each in chosen]


seeds = range(scale.at_scale(quick=3, full=10))
wrong = np.array([accuracies("not named", seed) for seed in seeds])
right = np.array([accuracies("named", seed) for seed in seeds])
fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for runs, style, name in ((wrong, "C1X", "not named"), (right, "C0o", "named")):
    label = [f"training {name}"] + [None] * (len(seeds) - 1)
    ax.plot(["300", "10", "1"], runs.T, style, label=label)
ax.set(title="Test accuracy by predict", xlabel="batch size", ylim=(0, 1))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# To check your own model, compare ``model(x)`` with ``model(x, training=False)``, or call
# ``bnref.doctor.examine(model, data, only=["untold_is_training"])``. The fix: name ``training`` in
# every ``call`` and pass it on; or resize by ``keras.ops.image.resize``. Met in
# `keras-team/keras-hub#2776 <https://github.com/keras-team/keras-hub/pull/2776>`_; mended by
# `keras-team/keras#23166 <https://github.com/keras-team/keras/pull/23166>`_, not yet in 3.15.1.
#
# Conclusion
# ----------

shows = any(map(any, table.values()))
defects.defect("training_leaks", shows)
for (library, layer, model), row in table.items():
    leaks = shows and library == "keras" and layer != "Rescaling" and model != "named"
    assert row == [leaks and model == "not named", leaks, False], (library, layer, model)
print("test accuracy in batches of 300, 10, 1:", wrong.mean(0).round(3), right.mean(0).round(3))
assert not shows or (wrong[:, 0].min() > 0.8 and wrong[:, 2].max() < 0.2)
assert np.ptp(right, axis=1).max() < 0.01


def found(model):
    model(data.x_test[:1])  # built
    report = doctor.examine(model, data.x_test, only=["untold_is_training"])
    return [finding.evidence for finding in report.findings]


wrong, right = found(network("not named")), found(network("named"))
print("the doctor, of the wrong model:", *wrong)
assert bool(wrong) == shows, "the check fires where training is not named"
assert not right, "and is silent where it is"
