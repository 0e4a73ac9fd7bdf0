"""Passes that are not remembered: `bnref.population.unchanged`, and those that are recomputed."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import (
    assert_same_state,
    assert_same_values,
    batch_of,
    result_in_new_process,
    state,
    strategy_of,
    values,
)
from layers_under_test import CASES, Case

import bnref
from bnref import devices, population

MOMENTUM = 0.6
NORMS = {
    "bnref": lambda: bnref.BatchNorm(momentum=MOMENTUM),
    "Keras": lambda: keras.layers.BatchNormalization(momentum=MOMENTUM),
    "tf_keras": lambda: tf_keras.layers.BatchNormalization(momentum=MOMENTUM),
}


def model_with(norm):
    """Nested, so that layers inside layers are held as well."""
    library = tf_keras if isinstance(norm, tf_keras.layers.Layer) else keras
    inner = library.Sequential([library.layers.Dense(3), norm])
    model = library.Sequential([inner, library.layers.Dense(2)])
    model(batch_of((4, 3)))
    return model


@pytest.fixture(params=NORMS)
def model(request):
    return model_with(NORMS[request.param]())


def test_a_pass_within_normalizes_by_the_batch_and_moves_nothing(model):
    x, before = batch_of((6, 3)), values(model)
    with population.unchanged(model):
        within = model(x, training=True).numpy()
    assert_same_values(model, before)
    np.testing.assert_array_equal(within, model(x, training=True))
    assert any(not np.array_equal(a, b) for a, b in zip(values(model), before, strict=True))


def test_it_may_be_nested_and_ends_with_the_outermost(model):
    x, before = batch_of((6, 3)), values(model)
    with population.unchanged(model):
        with population.unchanged(model):
            model(x, training=True)
        model(x, training=True)
        assert_same_values(model, before)
    model(x, training=True)
    assert any(not np.array_equal(a, b) for a, b in zip(values(model), before, strict=True))


def test_within_a_traced_function_it_holds_in_every_call(model):
    before = values(model)

    @tf.function
    def step(x):
        with population.unchanged(model):
            model(x, training=True)
        return model(x, training=False)

    for seed in range(3):
        step(batch_of((6, 3), seed))
    assert_same_values(model, before)


def test_a_function_that_was_traced_outside_is_named_and_undone(model):
    traced = tf.function(lambda x: model(x, training=True))
    traced(batch_of((6, 3)))
    before = values(model)
    with pytest.raises(RuntimeError, match="moved within unchanged.model."):  # noqa: SIM117
        with population.unchanged(model):
            traced(batch_of((6, 3), 1))
    assert_same_values(model, before)


def test_an_error_within_is_passed_on_and_the_population_moves_again(model):
    with pytest.raises(KeyError, match="of the body"):  # noqa: SIM117
        with population.unchanged(model):
            raise KeyError("of the body")
    before = values(model)
    model(batch_of((6, 3)), training=True)
    assert any(not np.array_equal(a, b) for a, b in zip(values(model), before, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_held_with_its_counters(name):
    layer, x = CASES[name].make(), batch_of((6, 4, 3))
    before = state(layer)
    with population.unchanged(layer):
        layer(x, training=True, **CASES[name].extra(x.shape))
    assert_same_state(layer, before)


def test_another_thread_is_not_held():
    layer, x = Case(bnref.BatchNorm).make(), batch_of((6, 3))
    before = state(layer)
    with population.unchanged(layer):
        # No test of eagerness in the other thread: it moves what it moves, and that is looked at.
        other = threading.Thread(target=lambda: layer(x, training=True))
        other.start()
        other.join()
        moved = not np.array_equal(layer.moving_mean, before["moving_mean"])
        for variable, value in zip(layer.variables, before.values(), strict=True):
            variable._value.assign(value)
    assert moved


def test_a_model_without_a_norm_is_refused():
    with pytest.raises(ValueError, match="model must have a layer with a moving_mean"):  # noqa: SIM117
        with population.unchanged(keras.Sequential([keras.layers.Dense(2)])):
            pass


# Passes that are recomputed to save memory.


@pytest.mark.slow
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", CASES)
def test_a_recomputed_pass_is_remembered_once(name, graph):
    case, x = CASES[name], tf.constant(batch_of((6, 4, 3)))
    layer, once, extra = case.make(), case.make(), case.extra(x.shape)
    block = tf.recompute_grad(lambda x: layer(x, training=True, **extra))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(block(x) ** 2)
        return tape.gradient(loss, x)

    (tf.function(step) if graph else step)(x)
    once(x, training=True, **extra)
    for name, value in state(once).items():
        np.testing.assert_allclose(state(layer)[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="Keras has it since 3.9")
def test_a_remat_scope_remembers_once_and_keras_layer_twice():
    """Which is a momentum of ρ² a step: P = (1 − ρ²) B, from 0."""
    x, found = batch_of((6, 3)), {}
    for name, kind in (("bnref", bnref.BatchNorm), ("Keras", keras.layers.BatchNormalization)):
        with keras.RematScope(mode="full"):
            layer = kind(momentum=MOMENTUM)
        layer.build(x.shape)
        tensor = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            loss = tf.reduce_sum(layer(tensor, training=True) ** 2)
        tape.gradient(loss, tensor)
        found[name] = np.array(layer.moving_mean) / x.mean(0)
    np.testing.assert_allclose(found["bnref"], 1 - MOMENTUM, rtol=1e-5)
    np.testing.assert_allclose(found["Keras"], 1 - MOMENTUM**2, rtol=1e-5)


def means_on_replicas():
    """The means that two replicas remember after a pass that is not, by layer and mode."""
    devices.configure(cpus=2)
    strategy, found = strategy_of(2), {}
    for norm in (bnref.BatchNorm, bnref.SyncBatchNorm, keras.layers.BatchNormalization):
        with strategy.scope():
            layer = norm(momentum=0.5)
            layer.build((None, 1))

        def on_replica(layer=layer):
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            x = tf.constant([[[0.0], [2.0]], [[10.0], [12.0]]])[int(tf.get_static_value(index))]
            with population.unchanged(layer):
                layer(x, training=True)
            return layer.moving_mean.value.read_value()

        for mode, run in {"eager": strategy.run, "graph": tf.function(strategy.run)}.items():
            means = strategy.experimental_local_results(run(on_replica))
            found[norm.__name__, mode] = [float(mean[0]) for mean in means]
    return found


@pytest.mark.slow
def test_on_replicas_no_population_moves():
    found = result_in_new_process(means_on_replicas)
    assert len(found) == 6 and set(map(tuple, found.values())) == {(0.0, 0.0)}, found
