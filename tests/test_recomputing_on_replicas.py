"""Tests of bnref.population.recompute in the scope of a strategy: the result is one device's."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import batch_of, local, result_in_new_process, strategy_of

import bnref
from bnref import devices
from bnref.population import recompute

# Unequal, and of three examples or more.
SIZES = (5, 9, 3, 4)
BATCHES = [(batch_of((size, 4), size) / [1, 3, 9, 27]).astype("float32") for size in SIZES]
# How many of them: the replicas do not divide it.
NUMBER = {2: 3, 3: 4}


def dense(library, name):
    random = np.random.default_rng(len(name))
    kernel = library.initializers.Constant(random.normal(size=(4, 4)))
    return library.layers.Dense(4, "tanh", kernel_initializer=kernel, name=name)


def chain(library, first, second, between=()):
    return library.Sequential(
        [library.Input((4,)), first, *between, dense(library, "dense"), second]
    )


class Subclass(keras.Model):
    """Not built before its first batch."""

    def __init__(self, first, second):
        super().__init__()
        self.parts = [first, dense(keras, "dense"), second]

    def call(self, x):
        for each in self.parts:
            x = each(x)
        return x


def keras_norm(**options):
    return keras.layers.BatchNormalization(**options)


def tf_keras_norm(**options):
    return tf_keras.layers.BatchNormalization(**options)


def dropped():
    layers = [keras.layers.Dropout(0.5), keras.layers.GaussianNoise(1.0)]
    return chain(keras, keras_norm(), keras_norm(), layers)


# Each makes a model whose two norms, on one device and on several, see the same.
MODELS = {
    "keras": lambda: chain(keras, keras_norm(), keras_norm()),
    "bnref": lambda: chain(keras, bnref.BatchNorm(), bnref.BatchNorm()),
    "tf_keras": lambda: chain(tf_keras, tf_keras_norm(), tf_keras_norm()),
    "a subclass": lambda: Subclass(keras_norm(), keras_norm()),
    "dropout": dropped,
    "keras, synchronized": lambda: chain(
        keras, keras_norm(synchronized=True), keras_norm(synchronized=True)
    ),
    "bnref, synchronized": lambda: chain(keras, bnref.SyncBatchNorm(), bnref.SyncBatchNorm()),
    "tf_keras, synchronized": lambda: chain(
        tf_keras, tf_keras_norm(synchronized=True), tf_keras_norm(synchronized=True)
    ),
    "a subclass, synchronized": lambda: Subclass(
        keras_norm(synchronized=True), keras_norm(synchronized=True)
    ),
    "one of two synchronized": lambda: chain(keras, bnref.SyncBatchNorm(), keras_norm()),
}


# Those that are trained on three replicas too.
ON_THREE = ("keras", "keras, synchronized", "bnref, synchronized")
CASES = [(name, 2) for name in MODELS] + [(name, 3) for name in ON_THREE]


def as_dataset(batches):
    """Global batches with targets."""

    def pairs():
        for x in batches:
            yield x, np.zeros(len(x), "float32")

    signature = tf.TensorSpec((None, 4)), tf.TensorSpec((None,))
    return tf.data.Dataset.from_generator(pairs, output_signature=signature)


def on_replicas(variables, replicas):
    """The value of each variable on each replica."""
    if replicas == 1:
        return [[np.array(each)] for each in variables]
    stored = [each.value if isinstance(each, keras.Variable) else each for each in variables]
    return [[local(strategy_of(replicas), each, i) for i in range(replicas)] for each in stored]


def recomputed(name, batches, replicas, **options):
    """Mean and variance of both norms, each on every replica."""
    keras.utils.set_random_seed(0)
    with strategy_of(replicas).scope() if replicas > 1 else contextlib.nullcontext():
        model = MODELS[name]()
    assert recompute(model, batches, dropout=name != "dropout", **options) == 2
    norms = bnref.norms.find(model)
    return on_replicas([each for norm in norms for each in (norm.mean, norm.variance)], replicas)


def refused(name, batches):
    """The error, and whether any variable of any replica is another than before."""
    with strategy_of(3).scope():
        model = MODELS[name]()
        model(BATCHES[0])
    before = on_replicas(model.variables, 3)
    try:
        recompute(model, batches)
    except Exception as error:
        after = on_replicas(model.variables, 3)
        same = all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))
        return type(error).__name__, str(error), same
    raise AssertionError("not refused")


def all_on(replicas):
    """What is compared and what is refused, from one process a number of replicas.

    Logical devices are configured once in it, and two strategies would mistake each other's
    messages.
    """
    devices.configure(cpus=replicas)
    batches = BATCHES[: NUMBER[replicas]]
    found = {}
    for name, own in CASES:
        if own == replicas:
            found[name] = [recomputed(name, batches, each) for each in (1, replicas)]
    return {**found, **(of_two(batches) if replicas == 2 else of_three())}


def of_two(batches):
    found = {}
    for name in ("keras", "keras, synchronized"):
        found["tf.data", name] = [
            recomputed(name, batches, 1),
            recomputed(name, as_dataset(batches), 2),
        ]
    found["corrected"] = [
        recomputed("keras", batches, each, variance="corrected") for each in (1, 2)
    ]
    return found


def of_three():
    found = {}
    few, poison = [BATCHES[0], BATCHES[1][:2]], BATCHES[1].copy()
    poison[3, 2] = np.nan
    for name in ("keras, synchronized", "bnref, synchronized"):
        found["too few", name] = refused(name, few)
    for name in ("keras", "bnref, synchronized"):
        found["NaN", name] = refused(name, [BATCHES[0], poison])
    return found


@functools.cache
def results(replicas):
    return result_in_new_process(all_on, replicas)


pytestmark = pytest.mark.slow


def assert_alike(one, several, name=""):
    # Keras's own synchronized layers normalize by E[x²] − E[x]², which costs the next norm digits.
    cancels = "synchronized" in name and not name.startswith("bnref")
    close = {"rtol": 2e-5, "atol": 5e-6} if cancels else {"rtol": 2e-6, "atol": 1e-6}
    for (value,), each in zip(one, several, strict=True):
        for on_a_replica in each:
            np.testing.assert_allclose(on_a_replica, value, **close)


@pytest.mark.parametrize("name, replicas", CASES)
def test_every_replica_has_the_populations_of_one_device(name, replicas):
    assert_alike(*results(replicas)[name], name)


@pytest.mark.parametrize("name", MODELS)
def test_on_one_device_the_first_population_is_that_of_all_examples(name):
    """So that what replicas are compared with is right."""
    (mean,), (variance,), *_ = results(2)[name][0]
    x = np.concatenate(BATCHES[:3]).astype("float64")
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-5)


@pytest.mark.parametrize("name", ["keras", "keras, synchronized"])
def test_a_data_set_of_global_batches_gives_the_same(name):
    assert_alike(*results(2)["tf.data", name], name)


def test_bessels_correction_is_of_whole_batches():
    assert_alike(*results(2)["corrected"])


@pytest.mark.parametrize("name", ["keras, synchronized", "bnref, synchronized"])
def test_a_batch_of_fewer_examples_than_replicas_is_refused_where_replicas_share_it(name):
    kind, message, same = results(3)["too few", name]
    assert kind == "ValueError"
    assert message == "batches must have an example a replica, 3 or more; received one of 2"
    assert same, "variables have changed"


@pytest.mark.parametrize("name", ["keras", "bnref, synchronized"])
def test_moments_that_are_not_finite_are_refused_and_nothing_changes(name):
    kind, message, same = results(3)["NaN", name]
    assert kind == "ValueError"
    assert "batches gave moments that are not finite in layer" in message
    assert same, "variables have changed"
