"""Tests of bnref.BatchNorm: outputs, every variable, and each of its three questions."""

import re

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
    CLOSE,
    GAMMA,
    MEAN,
    VARIANCE,
    assert_same_state,
    result_in_new_process,
    state,
    strategy_of,
    with_state,
)

from bnref import BatchNorm, devices, functional


def layer_with_state(kind=BatchNorm, **options):
    """A layer of three channels in which no variable is what it starts as."""
    return with_state(kind(**options))


def population_after(batches, momentum, mean=MEAN, variance=VARIANCE):
    means, variances = zip(*map(reference.moments, batches), strict=True)
    return (
        reference.exponential_average(means, momentum=momentum, start=mean),
        reference.exponential_average(variances, momentum=momentum, start=variance),
    )


def assert_population(layer, expected, **options):
    np.testing.assert_allclose(layer.moving_mean, expected[0], **(options or CLOSE))
    np.testing.assert_allclose(layer.moving_variance, expected[1], **(options or CLOSE))


def gradient_of(layer, x, dy):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    return tape.gradient(y, x, tf.cast(dy, y.dtype))


def test_a_new_layer_starts_at_the_identity_with_population_zero_and_one(batch):
    layer, x = BatchNorm(), batch((4, 3))
    y = layer(x)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-3), **CLOSE)
    for name, value in state(layer).items():
        np.testing.assert_array_equal(
            value, np.full(3, float(name in ("gamma", "moving_variance")))
        )
    assert (layer.momentum, layer.epsilon) == (0.99, 1e-3)


@pytest.mark.parametrize("momentum", [0, 0.6, 0.99])
@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 3), (3, 2, 4, 3), (2, 2, 3, 2, 3)])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_output_and_every_variable_after_k_training_steps_are_the_closed_form(
    batch, momentum, shape, steps
):
    layer = layer_with_state(momentum=momentum, epsilon=0.02)
    batches = [batch(shape, seed) for seed in range(steps)]
    for x in batches:
        y = layer(x, training=True)
    expected = reference.batch_norm(batches[-1], GAMMA, BETA, epsilon=0.02)
    np.testing.assert_allclose(y, expected, **CLOSE)
    assert_population(layer, population_after(batches, momentum))
    np.testing.assert_array_equal(layer.gamma, np.float32(GAMMA))
    np.testing.assert_array_equal(layer.beta, np.float32(BETA))
    assert len(layer.variables) == 4


@pytest.mark.parametrize("training", [False, None])
@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 4, 3)])
def test_inference_normalizes_by_the_population_and_moves_nothing(batch, shape, training):
    layer, x = layer_with_state(epsilon=0.02), batch(shape)
    before = state(layer)
    y = layer(x, training=training)
    expected = reference.normalized_by(
        np.array(MEAN), np.array(VARIANCE), x, GAMMA, BETA, epsilon=0.02
    )
    np.testing.assert_allclose(y, expected, **CLOSE)
    assert_same_state(layer, before)


@pytest.mark.parametrize("freeze", ["argument", "attribute"])
def test_a_frozen_layer_trains_as_it_infers_and_moves_nothing(batch, freeze):
    layer = layer_with_state(trainable=freeze != "argument")
    layer.trainable = False
    x, dy = batch((6, 3)), batch((6, 3), 1)
    before = state(layer)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    slope = np.array(GAMMA) / np.sqrt(np.array(VARIANCE) + layer.epsilon)
    np.testing.assert_allclose(gradient_of(layer, x, dy), dy * slope, **CLOSE)
    assert_same_state(layer, before)
    assert layer.trainable_variables == []
    layer.trainable = True
    layer(x, training=True)
    assert_population(layer, population_after([x], 0.99))


def test_the_gradient_in_training_is_that_of_the_paper_for_input_gamma_and_beta(batch):
    layer = layer_with_state()
    x, dy = tf.constant(batch((6, 4, 3))), batch((6, 4, 3), 1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    watched = [x, layer.gamma.value, layer.beta.value]
    actual = tape.gradient(y, watched, tf.constant(dy))
    expected = reference.batch_norm_gradient(dy, x, np.array(GAMMA), epsilon=1e-3)
    for each, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(each, wanted, rtol=1e-4, atol=1e-4)
    assert [each.name for each in layer.trainable_variables] == ["gamma", "beta"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "policy, digits",
    [("mixed_float16", 11), ("mixed_bfloat16", 8), ("float16", 11), ("bfloat16", 8)],
)
def test_half_precision_layers_keep_float32_variables_and_statistics(
    batch, policy, digits, training
):
    layer = layer_with_state(dtype=policy, momentum=0.5)
    # Float16 cannot hold the sum, nor the squares, of 64 values near 3000.
    x = (batch((64, 3)) + [0.0, 0.0, 3000.0]).astype("float32")
    y = layer(x, training=training)
    assert y.dtype == policy.removeprefix("mixed_")
    assert {each.dtype for each in layer.variables} == {"float32"}

    rounded = np.array(tf.cast(tf.cast(x, y.dtype), "float64"))
    start = np.array(MEAN), np.array(VARIANCE)
    assert_population(layer, population_after([rounded], 0.5) if training else start, rtol=1e-4)
    used = reference.moments(rounded) if training else start
    expected = reference.normalized_by(*used, rounded, GAMMA, BETA, epsilon=1e-3)
    np.testing.assert_allclose(tf.cast(y, "float64"), expected, rtol=2.0**-digits, atol=2e-4)


def test_a_float64_layer_is_float64_throughout(batch):
    layer, x = layer_with_state(dtype="float64"), batch((6, 3), dtype="float64")
    y = layer(x, training=True)
    assert y.dtype == "float64"
    assert {each.dtype for each in layer.variables} == {"float64"}
    expected = reference.batch_norm(x, GAMMA, BETA, epsilon=1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-13)
    assert_population(layer, population_after([x], 0.99), rtol=1e-13)


def test_a_saved_model_is_loaded_with_its_state_and_output(batch, tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 3)), layer_with_state(momentum=0.7, epsilon=0.02, name="normalized")]
    )
    model(batch((6, 4, 3)), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    (layer,) = loaded.layers
    assert type(layer) is BatchNorm
    assert (layer.momentum, layer.epsilon, layer.name) == (0.7, 0.02, "normalized")
    assert_same_state(layer, state(model.layers[0]))
    x = batch((5, 4, 3), 1)
    np.testing.assert_array_equal(loaded(x), model(x))
    np.testing.assert_array_equal(loaded(x, training=True), model(x, training=True))
    assert_same_state(layer, state(model.layers[0]))


def test_a_configuration_makes_an_equal_layer():
    layer = BatchNorm(
        momentum=0.7, epsilon=0.02, name="normalized", dtype="mixed_float16", trainable=False
    )
    config = layer.get_config()
    again = BatchNorm.from_config(config)
    assert again.get_config() == config
    assert (again.momentum, again.epsilon, again.name) == (0.7, 0.02, "normalized")
    assert again.dtype_policy.name == "mixed_float16" and again.trainable is False


@pytest.mark.parametrize("training", [True, False])
def test_weights_can_be_taken_over_from_the_layer_of_keras(batch, training):
    theirs = keras.layers.BatchNormalization(momentum=0.7, epsilon=0.02)
    theirs.build((None, 3))
    theirs.set_weights([np.array(each) for each in (GAMMA, BETA, MEAN, VARIANCE)])
    ours = BatchNorm(momentum=0.7, epsilon=0.02)
    ours.build((None, 3))
    ours.set_weights(theirs.get_weights())
    x = batch((6, 3))
    np.testing.assert_allclose(ours(x, training=training), theirs(x, training=training), **CLOSE)
    for own, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, **CLOSE)
    names = ["gamma", "beta", "moving_mean", "moving_variance"]
    assert [each.name for each in ours.weights] == names


def test_a_mask_is_passed_on_to_the_next_layer(batch):
    layer, seen = BatchNorm(), []

    class Next(keras.layers.Layer):
        supports_masking = True

        def call(self, x, mask=None):
            seen.append(mask)
            return x

    x = batch((2, 4, 3))
    x[1, 2:] = 0
    Next()(layer(keras.layers.Masking()(x)))
    np.testing.assert_array_equal(seen[0], [[True] * 4, [True, True, False, False]])


@pytest.mark.parametrize("jit", [False, True])
def test_a_graph_is_traced_once_for_batches_of_all_sizes(batch, jit):
    layer, traced = layer_with_state(momentum=0.5), []

    @tf.function(input_signature=[tf.TensorSpec((None, 3))], jit_compile=jit)
    def step(x):
        traced.append(x.shape)
        return layer(x, training=True)

    batches = [batch((size, 3), size) for size in (4, 7, 2)]
    for x in batches:
        expected = reference.batch_norm(x, GAMMA, BETA, epsilon=1e-3)
        np.testing.assert_allclose(step(x), expected, rtol=2e-4, atol=2e-4)
    assert len(traced) == step.experimental_get_tracing_count() == 1
    assert_population(layer, population_after(batches, 0.5))


@pytest.mark.parametrize("jit", [False, True])
def test_fit_updates_every_variable_whether_compiled_or_not(batch, jit):
    model = keras.Sequential([keras.Input((3,)), layer_with_state(momentum=0.5)])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
    x, y = batch((12, 3)), batch((12, 3), 5)
    model.fit(x, y, batch_size=6, epochs=1, shuffle=False, verbose=0)

    gamma, beta = np.array(GAMMA), np.array(BETA)
    for some_x, some_y in ((x[:6], y[:6]), (x[6:], y[6:])):
        output = reference.batch_norm(some_x, gamma, beta, epsilon=1e-3)
        dy = 2 * (output - some_y) / some_y.size
        _, dgamma, dbeta = reference.batch_norm_gradient(dy, some_x, gamma, epsilon=1e-3)
        gamma, beta = gamma - 0.1 * dgamma, beta - 0.1 * dbeta
    (layer,) = model.layers
    np.testing.assert_allclose(layer.gamma, gamma, **CLOSE)
    np.testing.assert_allclose(layer.beta, beta, **CLOSE)
    assert_population(layer, population_after([x[:6], x[6:]], 0.5))


def assert_each_replica_is_normalized_by_itself():
    devices.configure(cpus=2)
    strategy = strategy_of(2)
    with strategy.scope():
        layer = BatchNorm(momentum=0.5)
        layer.build((None, 2))
    random = np.random.default_rng(0)
    x = [(random.normal(size=(5, 2)) * [1, 9] + [i, 20 * i]).astype("float32") for i in range(2)]

    @tf.function
    def step():
        def on_replica():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            own = tf.gather(tf.constant(np.stack(x)), index)
            with tf.GradientTape() as tape:
                tape.watch(own)
                y = layer(own, training=True)
            return y, tape.gradient(y, own, own * own)

        return strategy.run(on_replica)

    results = map(strategy.experimental_local_results, step())
    for i, outputs in enumerate(zip(*results, strict=True)):
        y, dx = (np.array(each) for each in outputs)
        own = (x[i] - x[i].mean(0)) / np.sqrt(x[i].var(0) + 1e-3)
        assert np.allclose(y, own, atol=1e-4), (i, y, own)
        assert np.isfinite(dx).all() and np.abs(dx).max() > 0, (i, dx)
    # Each replica remembers its own; what is read is the first one's.
    assert np.allclose(layer.moving_mean.numpy(), x[0].mean(0) / 2, atol=1e-5)
    assert np.allclose(layer.moving_variance.numpy(), x[0].var(0) / 2 + 0.5, rtol=1e-5)


@pytest.mark.slow
def test_each_replica_is_normalized_by_itself_and_the_first_ones_statistics_are_read():
    result_in_new_process(assert_each_replica_is_normalized_by_itself)


def test_what_was_inferred_does_not_matter_to_any_later_call(batch):
    layer, x = layer_with_state(), batch((6, 3))
    before, y = state(layer), layer(x)
    assert np.isnan(layer(np.full((6, 3), np.nan, "float32"))).all()
    assert_same_state(layer, before)
    np.testing.assert_array_equal(layer(x), y)


@pytest.mark.parametrize("frozen", [False, True])
def test_population_statistics_let_no_example_reach_another(batch, frozen):
    layer, x = layer_with_state(), batch((6, 3))
    layer.trainable = not frozen
    before, clean = state(layer), layer(x, training=frozen).numpy()
    x[2] = np.nan
    y = layer(x, training=frozen).numpy()
    assert np.isnan(y[2]).all()
    np.testing.assert_array_equal(np.delete(y, 2, 0), np.delete(clean, 2, 0))
    assert_same_state(layer, before)


def test_training_reads_nothing_of_the_population(batch):
    clean, poisoned, x = layer_with_state(), layer_with_state(), batch((6, 3))
    poisoned.moving_mean.assign(np.full(3, np.nan))
    poisoned.moving_variance.assign(np.full(3, np.nan))
    dy = batch((6, 3), 1)
    np.testing.assert_array_equal(poisoned(x, training=True), clean(x, training=True))
    np.testing.assert_array_equal(gradient_of(poisoned, x, dy), gradient_of(clean, x, dy))


@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 2, 3)])
def test_nan_in_one_channel_leaves_the_others_exactly_as_they_were(batch, shape):
    clean, poisoned, x, dy = layer_with_state(), layer_with_state(), batch(shape), batch(shape, 1)
    bad = x.copy()
    bad[0, ..., 1] = np.nan
    pairs = [
        (poisoned(bad, training=True), clean(x, training=True)),
        (gradient_of(poisoned, bad, dy), gradient_of(clean, x, dy)),
        (poisoned.moving_mean, clean.moving_mean),
        (poisoned.moving_variance, clean.moving_variance),
    ]
    for actual, expected in (map(np.array, pair) for pair in pairs):
        assert np.isnan(actual[..., 1]).all() and not np.isnan(expected).any()
        np.testing.assert_array_equal(actual[..., [0, 2]], expected[..., [0, 2]])


class OfFirstHalf(BatchNorm):
    """Question 1 alone."""

    def batch_moments(self, x):
        return functional.moments(x[: len(x) // 2])._replace(average=None)


class Forgetful(BatchNorm):
    """Question 2 alone."""

    def update_population(self, moments):
        pass


class OfBatchAlways(BatchNorm):
    """Question 3 alone."""

    def training_moments(self, x):
        return self.batch_moments(x)

    def inference_moments(self, x):
        return self.batch_moments(x)


def test_overriding_batch_moments_changes_whose_statistics_and_nothing_else(batch):
    layer, x = layer_with_state(OfFirstHalf, momentum=0.5), batch((6, 3))
    expected = reference.normalized_by(
        *reference.moments(x[:3]), x, GAMMA, BETA, epsilon=layer.epsilon
    )
    np.testing.assert_allclose(layer(x, training=True), expected, **CLOSE)
    population = population_after([x[:3]], 0.5)
    assert_population(layer, population)
    expected = reference.normalized_by(*population, x, GAMMA, BETA, epsilon=layer.epsilon)
    np.testing.assert_allclose(layer(x), expected, **CLOSE)


def test_overriding_update_population_changes_what_is_remembered_and_nothing_else(batch):
    layer, base, x = layer_with_state(Forgetful), layer_with_state(), batch((6, 3))
    before = state(layer)
    inferred = base(x).numpy()
    np.testing.assert_array_equal(layer(x, training=True), base(x, training=True))
    np.testing.assert_array_equal(layer(x), inferred)
    assert_same_state(layer, before)


def test_overriding_both_normalizing_hooks_changes_what_is_used_and_nothing_else(batch):
    layer, x = layer_with_state(OfBatchAlways), batch((6, 3))
    before = state(layer)
    expected = reference.batch_norm(x, GAMMA, BETA, epsilon=layer.epsilon)
    for training in (True, False):
        np.testing.assert_allclose(layer(x, training=training), expected, **CLOSE)
    assert_same_state(layer, before)


def refused(name, value):
    return pytest.raises(ValueError, match=rf"{name} must be .*received {re.escape(repr(value))}")


def test_an_empty_batch_in_a_graph_of_any_size_is_refused_when_it_runs_and_moves_nothing():
    layer = layer_with_state(momentum=0.5)
    before = state(layer)
    step = tf.function(
        lambda x: layer(x, training=True), input_signature=[tf.TensorSpec([None, 3], tf.float32)]
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="x must hold at least one example"):
        step(tf.zeros((0, 3)))
    assert_same_state(layer, before)
    step(tf.constant([[1.0, 2.0, 3.0], [2.0, 5.0, 9.0]]))
    assert not np.array_equal(layer.moving_mean, before["moving_mean"])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_momentum_from_numpy_is_a_number(kind):
    layer = BatchNorm(momentum=kind(0.5), epsilon=kind(0.25))
    assert (layer.momentum, layer.epsilon) == (0.5, 0.25)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1, 1.5, "0.9", None, True, float("nan")])
def test_a_momentum_outside_zero_to_one_is_refused_by_name(momentum):
    with refused("momentum", momentum):
        BatchNorm(momentum=momentum)


@pytest.mark.parametrize("epsilon", [0, -1, float("inf"), float("nan"), "1e-3", None, True])
def test_an_epsilon_that_is_not_above_zero_is_refused_by_name(epsilon):
    with refused("epsilon", epsilon):
        BatchNorm(epsilon=epsilon)


@pytest.mark.parametrize("axis", [0, -2, None, [1, 2], True, 1.0])
def test_an_axis_that_cannot_be_the_last_is_refused_by_name(axis):
    with refused("axis", axis):
        BatchNorm(axis=axis)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 5, 6, 3)])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_positive_axis_is_taken_where_it_is_the_last_and_refused_elsewhere(batch, shape, axis):
    layer, base, x = BatchNorm(axis=axis), BatchNorm(), batch(shape)
    if axis == len(shape) - 1:
        np.testing.assert_array_equal(layer(x, training=True), base(x, training=True))
        assert BatchNorm.from_config(layer.get_config()).axis == axis
        with pytest.raises(ValueError, match="expected ndim"):
            layer(x[:, None])
        return
    with pytest.raises(ValueError, match=rf"axis must be -1 or {len(shape) - 1}.*received {axis}"):
        layer(x)


@pytest.mark.parametrize("shape", [(3,), (None, 4, None), (None,)])
def test_inputs_of_rank_one_or_of_unknown_channels_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=f"shape .*received {re.escape(str(shape))}"):
        BatchNorm()(keras.KerasTensor(shape))


@pytest.mark.parametrize("shape, wanted", [((4, 5), "3"), ((4, 2, 1), "3"), ((3,), "min_ndim=2")])
@pytest.mark.parametrize("training", [True, False])
def test_inputs_of_another_number_of_channels_than_before_are_refused(shape, wanted, training):
    layer = layer_with_state()
    before = state(layer)
    with pytest.raises(ValueError, match=rf"{wanted}.*{re.escape(str(shape))}"):
        layer(np.ones(shape, "float32"), training=training)
    assert_same_state(layer, before)


@pytest.mark.parametrize("training", [True, False])
def test_integers_are_refused_by_name_and_move_nothing(training):
    layer = layer_with_state()
    before = state(layer)
    with pytest.raises(ValueError, match="x must be floating point; received int32"):
        layer(np.ones((2, 3), "int32"), training=training)
    assert_same_state(layer, before)


def test_an_empty_batch_is_refused_in_training_moves_nothing_and_is_empty_at_inference():
    layer = layer_with_state()
    before = state(layer)
    with pytest.raises(ValueError, match=r"x must hold at least one example; received .*\(0, 3\)"):
        layer(np.ones((0, 3), "float32"), training=True)
    assert layer(np.ones((0, 3), "float32")).shape == (0, 3)
    assert_same_state(layer, before)
