"""Each layer where other people's models use it: Keras's own battery, and what it does not try."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_all_close, assert_same_state, batch_of, state
from keras.src.testing import TestCase
from layers_under_test import CASES

from bnref import layers

SHAPE = (6, 4, 3)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


class _Battery(TestCase):
    def runTest(self):  # noqa: N802
        """Only its methods are used."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # by the battery itself
@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 3), (4, 5, 5, 3)])
def test_kerass_own_battery_for_layers(case, shape):
    extra = case.extra(shape)
    battery = _Battery()
    battery.setUp()
    counters = {"updates", "steps"}
    fresh = case.kind(**case.options)
    fresh.build((None, 3))
    counted = sum(each.name in counters for each in fresh.variables)
    battery.run_layer_test(
        case.kind,
        init_kwargs={
            **case.options, "axis": len(shape) - 1, "beta_initializer": "ones",
            "gamma_regularizer": keras.regularizers.L2(0.01),
            "gamma_constraint": keras.constraints.UnitNorm(), "momentum": 0.5,
        },
        input_data=batch_of(shape),
        call_kwargs={name: tf.constant(value) for name, value in extra.items()},
        expected_output_shape=shape,
        expected_num_trainable_weights=2,
        expected_num_non_trainable_weights=2 + counted,
        expected_num_losses=1,
        supports_masking=True,
        run_training_check=not extra,  # it trains on x and y alone
    )  # fmt: skip


def test_a_mask_is_taken_and_passed_on(case):
    """A functional model records ``mask=None``, and Embedding and Masking make one."""
    layer, x = case.make(), batch_of(SHAPE)
    extra = {name: value for name, value in case.extra(SHAPE).items() if name != "mask"}
    np.testing.assert_array_equal(layer(x, mask=None, **extra), layer(x, **extra))
    masking = keras.layers.Masking()
    x[1, 2:] = 0
    masked = layer(masking(x), **extra)
    np.testing.assert_array_equal(masked._keras_mask, np.any(x != 0, -1))


def test_a_functional_model_is_cloned_to_another_layer_with_its_weights():
    """As `keras.models.clone_model` does, by which ordinary norms become synchronized ones."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.BatchNormalization(axis=3)(x)
    branch = layers.BatchNorm(axis=3)(keras.layers.Conv2D(4, 1)(x))
    model = keras.Model(inputs, keras.layers.Add()([x, branch]))

    def to_sync(layer):
        if not isinstance(layer, keras.layers.BatchNormalization | layers.BatchNorm):
            return layer.__class__.from_config(layer.get_config())
        known = ("name", "axis", "momentum", "epsilon", "center", "scale")
        config = {name: value for name, value in layer.get_config().items() if name in known}
        return layers.SyncBatchNorm.from_config(config)

    cloned = keras.models.clone_model(model, clone_function=to_sync)
    assert sum(isinstance(each, layers.SyncBatchNorm) for each in cloned.layers) == 2
    cloned.set_weights(model.get_weights())
    images = batch_of((2, 8, 8, 3))
    np.testing.assert_allclose(cloned(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unknown", [(None, None, 3), (None, 4, 3), (6, None, 3)])
def test_symbolic_calls_keep_sizes_that_are_not_known(case, unknown):
    inputs = keras.Input(batch_shape=unknown)
    extra = {
        name: keras.Input(batch_shape=unknown[: value.ndim], dtype=str(value.dtype))
        for name, value in case.extra(SHAPE).items()
    }
    layer = case.kind(**case.options)
    assert layer(inputs, **extra).shape == unknown
    assert layer.compute_output_shape(unknown) == unknown


def test_inside_time_distributed_it_is_the_layer_of_every_step(case):
    """In a functional model, whose shapes are asked for before any call."""
    if case.extra(SHAPE):
        pytest.skip("TimeDistributed passes on no domain, and its mask is one of steps")
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, keras.layers.TimeDistributed(case.make())(inputs))
    alone, x = case.make(), batch_of((6, 5, 3))
    expected = np.stack([alone(x[:, step], training=False) for step in range(5)], 1)
    np.testing.assert_allclose(model(x), expected, rtol=1e-6)
    assert model.output_shape == (None, 5, 3)


@pytest.mark.slow
def test_a_nested_model_is_saved_loaded_summarized_and_exported(case, tmp_path, capsys):
    if case.extra(SHAPE):
        pytest.skip("called with more than x: test_variants saves those")
    inner = keras.Sequential([keras.layers.Dense(3), case.make()])

    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.last = inner, keras.layers.Dense(2)

        def call(self, x, training=None):
            return self.last(self.inner(x, training=training))

    model, x = Outer(), batch_of((6, 3))
    model(x, training=True)
    expected = model(x, training=False).numpy()
    model.save_weights(tmp_path / "model.weights.h5")
    before = state(inner.layers[1])
    model(x, training=True)
    model.load_weights(tmp_path / "model.weights.h5")
    assert_same_state(inner.layers[1], before)
    inner.summary()
    assert case.kind.__name__ in capsys.readouterr().out
    functional = keras.Model(inputs := keras.Input((3,)), inner(inputs))
    functional.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")  # lives as long as it is used
    served = loaded.serve(tf.constant(x))
    np.testing.assert_allclose(served, functional(x, training=False), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-6)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_without_gamma_or_beta_it_is_kerass_layer(center, scale):
    options = {"center": center, "scale": scale, "momentum": 0.7, "axis": 2}
    ours, theirs = layers.BatchNorm(**options), keras.layers.BatchNormalization(**options)
    x, dy = batch_of(SHAPE), batch_of(SHAPE, 1)
    found = []
    for layer in (ours, theirs):
        layer.build(SHAPE)
        layer.set_weights([0.5 + 0.1 * np.arange(3.0) * i for i in range(len(layer.weights))])
        with tf.GradientTape() as tape:
            tensor = tf.constant(x)
            tape.watch(tensor)
            y = layer(tensor, training=True)
        watched = [tensor, *(each.value for each in layer.trainable_variables)]
        found.append([y, *tape.gradient(y, watched, dy), *layer.get_weights()])
        assert len(layer.trainable_variables) == center + scale
    assert_all_close(*found, rtol=1e-4, atol=1e-4)
    assert (ours.gamma is None, ours.beta is None) == (not scale, not center)


def test_initializers_regularizers_and_constraints_are_kerass():
    options = {
        "gamma_initializer": keras.initializers.Constant(3.0), "beta_initializer": "ones",
        "moving_mean_initializer": keras.initializers.Constant(5.0),
        "moving_variance_initializer": keras.initializers.Constant(7.0),
        "gamma_regularizer": keras.regularizers.L1(0.1), "beta_constraint": "non_neg",
    }  # fmt: skip
    ours, theirs = layers.BatchNorm(**options), keras.layers.BatchNormalization(**options)
    for layer in (ours, theirs):
        layer.build(SHAPE)
    assert_all_close(ours.get_weights(), theirs.get_weights())
    assert float(ours.losses[0]) == float(theirs.losses[0]) == pytest.approx(0.9)
    assert isinstance(ours.beta.constraint, keras.constraints.NonNeg)
    again = layers.BatchNorm.from_config(ours.get_config())
    assert again.get_config() == ours.get_config()
    shared = theirs.get_config().keys() & ours.get_config().keys()
    assert {*options, "axis", "center", "scale"} < shared


@pytest.mark.parametrize("name", ["center", "scale"])
def test_what_is_no_truth_value_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} must be True or False; received None"):
        layers.BatchNorm(**{name: None})


@pytest.mark.slow
def test_a_model_of_keras_applications_gives_the_same_numbers(monkeypatch):
    """Written with our layers: its arguments, weights, outputs and first gradient are Keras's."""

    def with_norm(norm):
        monkeypatch.setattr(keras.layers, "BatchNormalization", norm)
        monkeypatch.setattr("keras.src.layers.BatchNormalization", norm)
        keras.utils.set_random_seed(0)
        return keras.applications.MobileNetV2((64, 64, 3), 0.35, weights=None, classes=3)

    theirs_kind = keras.layers.BatchNormalization
    theirs, ours = with_norm(theirs_kind), with_norm(layers.BatchNorm)
    assert sum(type(each) is layers.BatchNorm for each in ours.layers) == 52
    random = np.random.default_rng(0)
    weights = [
        np.abs(random.normal(1, 0.1, w.shape)) if w.ndim == 1 else w for w in theirs.get_weights()
    ]
    images, found = random.normal(size=(4, 64, 64, 3)).astype("float32"), []
    for model in (theirs, ours):
        model.set_weights(weights)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.math.log(model(images, training=True))[:, 0])
        first = tape.gradient(loss, model.trainable_variables[0].value)
        found.append([model(images), loss, *model.get_weights(), first])
    assert_all_close(*found, rtol=1e-3, atol=1e-3)
