"""
Without ``training=True`` batch norm trains as if it were not there
===================================================================

A model whose ``call`` does not **name** ``training`` is trained by ``fit`` of Keras 3 with
normalizations at inference: by mean 0 and variance 1, from the first step to the last. On dark
digits it ends **more than 30 points** of test accuracy behind the model that names it, no better
than one without batch norm. ``fit`` of tf_keras told it all the same, so ported code loses its
batch norm without a word. ``model(x)`` in a loop of one's own loses it in both.

The symptom: ``moving_mean`` is 0 and ``moving_variance`` 1 for ever, and batch norm helps nothing.
Question 3, *used when*, is answered wrongly: the population's statistics are used in training too,
and these are the start values. Training and validation agree, so no gap between them tells.

.. symptom:: statistics never change
   :doctor: never_updated
   :cause: the loop calls ``model(x)`` without ``training=True``
   :check: after some steps, ``[norm.path for norm in bnref.norms.find(model) if not
           np.any(norm.mean)]`` is not empty

.. symptom:: statistics never change
   :doctor: never_updated
   :cause: Keras 3 ``fit`` of a subclass whose ``call`` does not name ``training``
   :check: ``"training" not in inspect.signature(model.call).parameters``

.. symptom:: statistics never change
   :doctor: training_never_passed
   :cause: a ``call`` says ``training=False`` to a layer within, or calls ``layer.call``
   :check: after ``model(x, training=True)``, ``[norm.path for norm in bnref.norms.find(model) if
           not np.any(norm.mean)]`` is not empty

.. symptom:: no better than without batch norm
   :doctor: training_never_passed
   :cause: the layers are never told that this is training
   :check: after some steps, ``[norm.path for norm in bnref.norms.find(model) if not
           np.any(norm.mean)]`` is not empty
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
import tf_keras

from bnref import doctor
from bnref_gallery import datasets, models, scale

LIBRARIES = {"Keras 3": keras, "tf_keras": tf_keras}

# %%
# Who loses it
# ------------
# Five ways to write the ``call`` of a model, ``inner`` being a normalization or a network of them.
# A layer that is told nothing takes the word of the call around it, so the argument need not be
# passed on. But the outermost must be told: ``fit`` of Keras 3 does so if ``call`` names it.

CALLS = {
    "passed on": lambda self, x, training=None: self.inner(x, training=training),  # right
    "named": lambda self, x, training=None: self.inner(x),  # right
    "not named": lambda self, x: self.inner(x),  # wrong in Keras 3
    "False": lambda self, x, training=None: self.inner(x, training=False),  # wrong
    "inner.call": lambda self, x, training=None: self.inner.call(x),  # wrong: must be inner(x)
}
WAYS = {
    "fit": lambda model, x: model.fit(x, x, batch_size=64, verbose=0),
    "model(x, training=True)": lambda model, x: model(x, training=True),
    "model(x)": lambda model, x: model(x),
}


def model_of(library, call, inner):
    model = type("Model", (library.Model,), {"call": CALLS[call]})()
    model.inner = inner
    return model


def moves(library, call, way):
    norm = library.layers.BatchNormalization()
    norm.build((None, 4))
    model = model_of(library, call, norm)
    model.compile("sgd", "mse", run_eagerly=True)
    WAYS[way](model, np.random.default_rng(0).normal(5, 2, (64, 4)).astype("float32"))
    return bool(np.float32(norm.moving_mean).any())


print("does the moving mean move? by", *WAYS, sep=" | ")
table = {}
for name, library in LIBRARIES.items():
    for call in CALLS:
        table[name, call] = [moves(library, call, way) for way in WAYS]
        print(f"{name:9}{call:11}", *table[name, call], sep=" | ")

# %%
# What it costs
# -------------
# Digits a tenth as bright, four hidden layers, gradient descent by ``fit`` of Keras 3.

data = datasets.load("mnist").take(train=3000, test=500)
dark_train, dark_test = (x * np.float32(0.1) for x in (data.x_train, data.x_test))


def norm():
    return keras.layers.BatchNormalization(momentum=0.9)


def trained(call, norm, seed):
    keras.utils.set_random_seed(seed)
    model = model_of(keras, call, models.perceptron(norm, inputs=(28, 28, 1), units=(64,) * 4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], jit_compile=False)
    options = {"validation_data": (dark_test, data.y_test), "epochs": 4, "verbose": 0}
    model.fit(dark_train, data.y_train, 64, **options)
    return model


seeds = range(scale.at_scale(quick=3, full=10))
arms = {"named": ("named", norm), "not named": ("not named", norm), "no norm": ("named", None)}
networks = {arm: [trained(*arms[arm], seed) for seed in seeds] for arm in arms}
runs = {
    arm: np.array([network.history.history["val_accuracy"] for network in some])
    for arm, some in networks.items()
}
fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for (arm, values), style in zip(runs.items(), ("C0o-", "C1X-", "C4:"), strict=True):
    ax.plot(range(1, 5), values.mean(0), style, label=arm)
    ax.fill_between(range(1, 5), values.min(0), values.max(0), color=style[:2], alpha=0.2)
ax.set(title="Test accuracy, dark digits", xlabel="epoch", ylim=(0, 1), xticks=range(1, 5))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# To check your own model, look at a ``moving_mean`` after some steps, as
# ``bnref.doctor.examine(model, data, only=["never_updated"])`` does. A ``call`` that says False, or
# skips the call around it, is found before the first step, by ``only=["training_never_passed"]``.
# The fix: ``training=True`` in your own loop, and ``training`` named in every ``call``. Met in
# `tensorflow/tensorflow#32864 <https://github.com/tensorflow/tensorflow/issues/32864>`_ (a loop),
# and in `keras-team/keras-hub#1500 <https://github.com/keras-team/keras-hub/issues/1500>`_ for
# dropout, which Keras 3 left off where tf_keras did not.
#
# Conclusion
# ----------

for (name, call), row in table.items():
    told = call in ("passed on", "named", "not named")
    assert row == [told and (name, call) != ("Keras 3", "not named"), told, False]
right, lost, none = (values[:, -1] for values in runs.values())
print("test accuracy after 4 epochs, named, not named, no norm:", right, lost, none)
assert (right - lost).mean() > 0.3 and (right > lost).all() and lost.mean() < none.mean() + 0.1


def found(model, cause):
    report = doctor.examine(model, (dark_train[:256], data.y_train[:256]), only=[cause])
    return [finding.evidence for finding in report.findings]


wrong, right = networks["not named"][0], networks["named"][0]
deaf = model_of(keras, "False", models.perceptron(norm, inputs=(28, 28, 1)))
deaf(dark_train[:1])
print("the doctor:", *found(wrong, "never_updated"), *found(deaf, "training_never_passed"))
assert found(wrong, "never_updated"), "the check fires on statistics that never moved"
assert found(deaf, "training_never_passed"), "another on a call that drops what it is told"
assert not found(right, "never_updated"), "the first is silent on the right model"
assert not found(right, "training_never_passed"), "and so is the other"
