"""
Without ``training=True`` batch norm trains as if it were not there
===================================================================

A model whose ``call`` does not name ``training`` is trained by ``fit`` of Keras 3 with its batch
norms in inference mode. They use mean 0 and variance 1 from the first step to the last, so they
normalize nothing. On dark digits, after four epochs of SGD at a rate of 0.1, such a model has a
test accuracy of :claim:`31 % <not_named>`; the same model reaches :claim:`90 % <named>` once its
``call`` names the argument. A loop of your own that calls ``model(x)`` has the same fault, and so
has a ``train_step`` that calls ``self(x)``. ``fit`` of tf_keras has no such fault, so code that was
ported from it loses its batch norm without a word.

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
   :doctor: never_updated
   :cause: a custom ``train_step`` calls ``self(x)``: neither Keras 3 nor tf_keras tells the model
   :check: search ``train_step`` for calls without ``training=True``

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

# %%
# Check
# -----
# The first check reads the statistics of a model that was trained for some steps. The second needs
# no training: it finds a ``call`` that does not pass on what it is told.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tf_keras

from bnref import doctor
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Fix
# ---
# Name ``training`` in every ``call``; say ``training=True`` in a loop or a ``train_step``.
#
# Wrong
# ^^^^^


class NotNamed(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


# %%
# Right
# ^^^^^


class Named(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x, training=None):
        return self.inner(x, training=training)


# %%
# Wrong, a loop of your own
# ^^^^^^^^^^^^^^^^^^^^^^^^^


def logits_of_a_wrong_step(model, x):
    return model(x)


# %%
# Right, a loop of your own
# ^^^^^^^^^^^^^^^^^^^^^^^^^


def logits_of_a_right_step(model, x):
    return model(x, training=True)


# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    for epoch in range(epochs):
#        train(model, train_loader)
#        with torch.no_grad():
#            accuracy = test(model, test_loader)
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# PyTorch has it the other way round: a module is in training mode until ``model.eval()`` is called,
# and ``torch.no_grad()`` does not change that.
#
# .. code-block:: python
#
#    for epoch in range(epochs):
#        model.train()
#        train(model, train_loader)
#        model.eval()
#        with torch.no_grad():
#            accuracy = test(model, test_loader)
#
# Why
# ---
# It goes wrong at question 3 (used when): the statistics of the population are used in training
# too, and these are the start values, 0 and 1. Training and validation agree, so no gap between
# them tells you. Only the outermost call has to be told: a layer that is told nothing takes the
# word of the call around it. ``fit`` of Keras 3 tells a model if its ``call`` names the argument.
#
# Met in `tensorflow/tensorflow#32864 <https://github.com/tensorflow/tensorflow/issues/32864>`_ (a
# loop), and in `keras-team/keras-hub#1500
# <https://github.com/keras-team/keras-hub/issues/1500>`_ for dropout.
#
# Experiment
# ----------
# Five ways to write a ``call``, ``inner`` being one norm, and four to run it. Does its mean move?

LIBRARIES = {"Keras 3": keras, "tf_keras": tf_keras}
CALLS = {
    "passed on": lambda self, x, training=None: self.inner(x, training=training),
    "named": lambda self, x, training=None: self.inner(x),
    "not named": lambda self, x: self.inner(x),
    "False": lambda self, x, training=None: self.inner(x, training=False),
    "inner.call": lambda self, x, training=None: self.inner.call(x),
}


def fit_by_own_step(model, x):
    model.train_step = lambda batch: {"loss": model(batch[0])[0, 0]}  # as a train_step with self(x)
    WAYS["fit"](model, x)


WAYS = {
    "fit": lambda model, x: model.fit(x, x, batch_size=64, verbose=0),
    "model(x, training=True)": logits_of_a_right_step,
    "model(x)": logits_of_a_wrong_step,
    "train_step: self(x)": fit_by_own_step,
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


table = {}
print("library", "call", *WAYS, sep=" | ")
for name, library in LIBRARIES.items():
    for call in CALLS:
        table[name, call] = [moves(library, call, way) for way in WAYS]
        print(f"{name:9}{call:11}", *table[name, call], sep=" | ")

# %%
# What it costs: digits a tenth as bright, four hidden layers, SGD by ``fit`` of Keras 3.

data = datasets.load("mnist").take(train=3000, test=1000)
dark_train, dark_test = (x * np.float32(0.1) for x in (data.x_train, data.x_test))


def norm():
    return keras.layers.BatchNormalization(momentum=0.9)


def network(kind, norm):
    model = kind(models.perceptron(norm, inputs=(28, 28, 1), units=(64,) * 4))
    model.build((None, 28, 28, 1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], jit_compile=False)
    return model


def curves(model, kind, norm):
    """Validation accuracies, a row a seed; the model is left as the last seed trained it."""
    tested = {"validation_data": (dark_test, data.y_test), "validation_batch_size": 500}
    rows = []
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(model, model.optimizer, partial(network, kind, norm), seed=seed)
        history = model.fit(dark_train, data.y_train, 64, epochs=4, verbose=0, **tested).history
        rows.append(history["val_accuracy"])
    return np.array(rows)


ARMS = {"named": (Named, norm), "not named": (NotNamed, norm), "no norm": (Named, None)}
networks = {arm: network(*parts) for arm, parts in ARMS.items()}
runs = {arm: curves(networks[arm], *parts) for arm, parts in ARMS.items()}

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for (arm, values), style in zip(runs.items(), ("C0o-", "C1X-", "C4:"), strict=True):
    ax.plot(range(1, 5), values.mean(0), style, label=arm)
    ax.fill_between(range(1, 5), values.min(0), values.max(0), color=style[:2], alpha=0.2)
ax.set(title="Dark digits, by how call names training", xlabel="epoch", ylabel="test accuracy")
ax.set(ylim=(0, 1), xticks=range(1, 5))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# Proof
# -----
# Which calls are told, the accuracies, and the doctor on both models.

for (library, call), row in table.items():
    told = call in ("passed on", "named", "not named")
    by_fit = told and (library, call) != ("Keras 3", "not named")
    assert row == [by_fit, told, False, False], f"{library}, {call}: told by fit and by True only"

right, lost, none = (values[:, -1] for values in runs.values())
claim("named", right, "test accuracy after 4 epochs, training named", above=0.8)
claim("not_named", lost, "test accuracy after 4 epochs, training not named", above=0.05, below=0.7)
claim("difference", right - lost, "what not naming costs", above=0.2)
claim("no_norm", lost - none, "not named, against no batch norm", below=0.1, of="mean")


def found(model, cause):
    report = doctor.examine(model, (dark_train[:256], data.y_train[:256]), only=[cause])
    return [finding.evidence for finding in report.findings]


wrong, right = networks["not named"], networks["named"]
deaf = model_of(keras, "False", models.perceptron(norm, inputs=(28, 28, 1)))
deaf(dark_train[:1])
print("the doctor:", *found(wrong, "never_updated"), *found(deaf, "training_never_passed"))
assert found(wrong, "never_updated"), "the check fires on statistics that never moved"
assert found(deaf, "training_never_passed"), "another on a call that drops what it is told"
assert not found(right, "never_updated"), "the first is silent on the right model"
assert not found(right, "training_never_passed"), "and so is the other"
