"""Errors and warnings where a wrong number would come without a word."""

import importlib
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_state, batch_of, state
from layers_under_test import CASES

import bnref
from bnref import _backend, folding, layers, population, training


def negative(layer, channel=1, value=-0.5):
    variance = np.ones(layer.moving_variance.shape, "float32")
    variance[..., channel] = value
    layer.moving_variance.assign(variance)
    return layer


def sequential(norm):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), norm])


# Another backend.


def test_another_backend_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(
        ImportError, match="TensorFlow backend; received the backend 'jax': set KER"
    ):
        importlib.reload(_backend)


# A variance that is negative or not finite.

KINDS = {"bnref": layers.BatchNorm, "Keras": keras.layers.BatchNormalization}
BAD = pytest.mark.parametrize("value", [-0.5, np.nan, np.inf], ids=str)


@BAD
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_evaluate_and_fold_name_the_layer_the_channel_and_the_value(kind, value):
    model = sequential(kind(name="spoilt"))
    negative(model.layers[1], 2, value)
    told = rf"layer 'spoilt' must be finite.*received {re.escape(str(value))}.* in channel 2:"
    with pytest.raises(ValueError, match=told):
        training.evaluate(model, batch_of((6, 4)), np.zeros(6, int))
    with pytest.raises(ValueError, match=told):
        folding.fold(*model.layers)
    with pytest.raises(ValueError, match=told):
        folding.fold_model(model)
    with pytest.raises(ValueError, match=told):
        population.check(model)


def test_recompute_cures_it_where_it_replaces_the_population_and_names_it_elsewhere():
    cured = sequential(negative(CASES["BatchNorm"].make(name="cured")))
    population.recompute(cured, [batch_of((6, 4))])
    assert (np.array(cured.layers[1].moving_variance) >= 0).all()
    kept = negative(CASES["FrozenBatchNorm"].make(name="kept"))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), kept, layers.BatchNorm()])
    with pytest.raises(ValueError, match="moving_variance of layer 'kept'"):
        population.recompute(model, [batch_of((6, 4))])


def test_many_channels_are_counted_and_not_all_listed():
    layer = layers.BatchNorm()
    layer.build((None, 20))
    layer.moving_variance.assign(-np.ones(20))
    with pytest.raises(ValueError, match=r"in channel 0, 1, 2, 3, 4 and 15 more:"):
        population.check(layer)


@BAD
@pytest.mark.parametrize("way", ["set_weights", "weights file", "model file"])
def test_it_is_refused_when_weights_are_set_or_loaded_and_nothing_is_changed(way, value, tmp_path):
    model, fresh = (sequential(layers.BatchNorm(name="norm")) for _ in range(2))
    negative(model.layers[1], 0, value)
    before = state(fresh.layers[1])
    with pytest.raises(ValueError, match="moving_variance of layer 'norm' must be finite"):
        if way == "set_weights":
            fresh.layers[1].set_weights(model.layers[1].get_weights())
        elif way == "weights file":
            model.save_weights(tmp_path / "model.weights.h5")
            fresh.load_weights(tmp_path / "model.weights.h5")
        else:
            model.save(tmp_path / "model.keras")
            keras.saving.load_model(tmp_path / "model.keras")
    assert_same_state(fresh.layers[1], before)


def test_lasagnes_variance_does_not_fall_below_zero_by_rounding():
    layer = layers.LasagneBatchNorm(momentum=0.1)
    layer.build((None, 3))
    for _ in range(40):  # of a channel without variance: 1/I² − ε comes down to 0
        layer(np.full((4, 3), [1.0, 7.0, 1e4], "float32"), training=True)
    population.check(layer)


# Statistics of another length.


def test_weights_of_another_length_name_both_when_they_are_set(tmp_path):
    layer, other = layers.BatchNorm(name="norm"), layers.BatchNorm(name="norm")
    layer.build((None, 3))
    other.build((None, 5))
    before = state(layer)
    weights = layer.get_weights()
    weights[2] = np.zeros(5)
    told = r"moving_mean of layer 'norm' must have the shape \(3,\); received \(5,\)"
    with pytest.raises(ValueError, match=told):
        layer.set_weights(weights)
    told = r"gamma of layer 'norm' must have the shape \(3,\); received \(5,\)"
    with pytest.raises(ValueError, match=told):
        layer.load_own_variables({str(i): w for i, w in enumerate(other.get_weights())})
    assert_same_state(layer, before)


# One value a channel.


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_one_value_a_channel_is_said_once_a_layer(graph):
    first, second = layers.BatchNorm(name="first"), layers.BatchNorm(name="second")
    x = tf.constant(batch_of((1, 3)))
    steps = [lambda x, n=n: n(x, training=True) for n in (first, second)]
    if graph:
        steps = [tf.function(step) for step in steps]
    with pytest.warns(UserWarning, match="layer 'first': a batch of one value") as caught:
        for _ in range(3):
            steps[0](x)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="layer 'second': a batch of one value a channel comes"):
        steps[1](x)


def test_what_has_more_values_or_is_inference_is_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layers.BatchNorm()(batch_of((1, 2, 3)), training=True)
        layers.BatchNorm()(batch_of((1, 3)))
        layers.GhostBatchNorm(groups=2)(batch_of((4, 3)), training=True)
        layers.BatchNorm(trainable=False)(batch_of((1, 3)), training=True)


def test_a_mask_that_changes_no_statistic_is_said_once():
    layer, x = layers.BatchNorm(name="norm"), batch_of((4, 5, 3))
    mask = np.arange(20).reshape(4, 5) % 3 != 1
    with pytest.warns(UserWarning, match="layer 'norm': a mask is passed on, and every") as caught:
        for _ in range(2):
            layer(x, training=True, mask=mask)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layers.MaskedBatchNorm()(x, training=True, mask=mask)
        layers.BatchNorm()(x, mask=mask)


# Frozen after the step was traced.


def trained(model, step, x, y):
    before = [each.numpy() for each in model.weights]
    step(x, y)
    pairs = zip(before, model.weights, strict=True)
    return {each.path for value, each in pairs if not np.array_equal(value, each.numpy())}


def test_a_layer_frozen_after_the_first_step_is_frozen_from_the_next_on():
    model = sequential(layers.BatchNorm(name="norm"))
    x, y = batch_of((6, 4)), np.array([0, 1, 2, 0, 1, 2])
    step = training.Run(model, keras.optimizers.SGD(0.1)).step
    everything = trained(model, step, x, y)
    assert len(everything) == 6
    model.layers[1].trainable = False
    assert not any("norm" in path for path in trained(model, step, x, y))
    model.layers[1].trainable = True
    assert trained(model, step, x, y) == everything


def test_a_layer_unfrozen_after_the_step_was_made_is_refused_and_nothing_moves():
    model = sequential(layers.BatchNorm(name="norm"))
    x, y = batch_of((6, 4)), np.array([0, 1, 2, 0, 1, 2])
    model.layers[1].trainable = False
    step = training.Run(model, keras.optimizers.SGD(0.1)).step
    step(x, y)
    model.layers[1].trainable = True
    before = [each.numpy() for each in model.weights]
    with pytest.raises(
        ValueError, match="model must not be unfrozen after the step was made.*norm"
    ):
        step(x, y)
    for value, each in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(value, each)


def test_kerass_fit_goes_on_as_it_was_compiled():
    """What the layers cannot mend, and the page on freezing says: compile again."""
    model = sequential(layers.BatchNorm(name="norm"))
    x, y = batch_of((6, 4)), np.array([0, 1, 2, 0, 1, 2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    model.fit(x, y, verbose=0)
    model.layers[1].trainable = False
    before = model.layers[1].moving_mean.numpy()
    model.fit(x, y, verbose=0)
    assert not np.array_equal(before, model.layers[1].moving_mean), "Keras traces anew by itself"
    model.compile("sgd", loss)
    before = model.layers[1].moving_mean.numpy()
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(before, model.layers[1].moving_mean)


def test_a_class_with_the_hook_of_version_0_1_is_refused():
    with pytest.raises(TypeError, match="Old overrides normalizing_moments, which is two methods"):

        class Old(bnref.BatchNorm):
            def normalizing_moments(self, x, *, training):
                return self.batch_moments(x)
