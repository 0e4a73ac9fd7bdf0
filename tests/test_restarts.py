"""Tests of bnref_gallery.restarts: a network that begins again is a new one, traced already."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import bnref
from bnref import training
from bnref_gallery.restarts import restart

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(3, 2, (64, 5)).astype("float32")
Y = RANDOM.integers(0, 3, 64)

OPTIMIZERS = {
    "Adam": partial(keras.optimizers.Adam, 0.01),
    "momentum": partial(keras.optimizers.SGD, 0.1, momentum=0.9),
    "Adagrad, which begins above 0": partial(keras.optimizers.Adagrad, 0.1),
    "a schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 8)),
    "averaged": partial(keras.optimizers.SGD, 0.1, use_ema=True, ema_momentum=0.5),
}


def network(units=4):
    layers = [keras.Input((5,)), keras.layers.Dense(units), bnref.BatchNorm(momentum=0.5)]
    return keras.Sequential([*layers, keras.layers.Dropout(0.5), keras.layers.Dense(3)])


def state(run):
    return [each.numpy() for each in [*run.model.variables, *run.optimizer.variables]]


def train(run, seed):
    return run.train(X, Y, steps=5, batch_size=16, seed=seed)["loss"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_network_that_begins_again_learns_as_a_new_one(optimizer):
    keras.utils.set_random_seed(7)
    new = training.Run(network(), optimizer())
    expected, expected_state = train(new, 7), state(new)
    used = training.Run(network(), optimizer())
    train(used, 1)
    restart(used.model, used.optimizer, network, seed=7)
    losses = train(used, 7)
    np.testing.assert_array_equal(losses, expected)
    for value, other in zip(state(used), expected_state, strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_rate_that_was_assigned_is_kept():
    run = training.Run(network(), keras.optimizers.Adam(0.01))
    train(run, 0)
    run.optimizer.learning_rate = 0.25
    restart(run.model, run.optimizer, network, seed=0)
    assert run.optimizer.learning_rate == 0.25
    assert run.optimizer.iterations == 0


def test_an_optimizer_that_is_not_built_yet_is_built():
    model, optimizer = network(), keras.optimizers.Adam(0.01)
    restart(model, optimizer, network, seed=2)
    assert optimizer.built and len(optimizer.variables) == 2 + 2 * len(model.trainable_variables)


def test_nothing_is_traced_again():
    traces = []

    def loss(y, output):
        traces.append(1)
        return keras.losses.sparse_categorical_crossentropy(y, output, from_logits=True)

    run = training.Run(network(), keras.optimizers.Adam(0.01), loss)
    train(run, 0)
    known = len(traces)
    restart(run.model, run.optimizer, network, seed=1)
    train(run, 1)
    assert len(traces) == known > 0


def test_parts_that_share_a_layer_begin_again_together():
    def pair():
        shared = keras.layers.Dense(4)
        inputs = [keras.Input((5,)), keras.Input((5,))]
        return [keras.Model(each, shared(each)) for each in inputs]

    parts, optimizer = pair(), keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(parts[0].trainable_variables)
    optimizer.apply([tf.ones((5, 4)), tf.ones(4)], list(parts[0].trainable_variables))
    restart(parts, optimizer, pair, seed=3)
    keras.utils.set_random_seed(3)
    first, second = pair()
    for part, new in zip(parts, (first, second), strict=True):
        np.testing.assert_array_equal(part(X), new(X))
    assert all(not np.any(each) for each in optimizer.variables[2:])


def test_another_architecture_is_refused_before_anything_changes():
    run = training.Run(network(), keras.optimizers.Adam(0.01))
    train(run, 0)
    before = state(run)
    with pytest.raises(ValueError, match="network must have the variables"):
        restart(run.model, run.optimizer, partial(network, 6), seed=0)
    for value, other in zip(state(run), before, strict=True):
        np.testing.assert_array_equal(value, other)
