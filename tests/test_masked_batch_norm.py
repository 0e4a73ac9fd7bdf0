"""Tests of bnref.MaskedBatchNorm: what stands under a false mask is not read."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
    BOTH,
    CLOSE,
    EPSILON,
    GAMMA,
    MEAN,
    VARIANCE,
    assert_all_close,
    assert_same_state,
    assert_state,
    batch_of,
    output_and_gradients,
    state,
    with_state,
)
from hypothesis import given
from hypothesis import strategies as st

from bnref import BatchNorm, MaskedBatchNorm


def masked(kind=MaskedBatchNorm):
    return with_state(kind(momentum=0.6, epsilon=EPSILON))


def some(shape, seed=0):
    """A mask that is true for two in three."""
    return np.random.default_rng(seed).random(shape) < 2 / 3


@pytest.mark.parametrize("of", [(6,), (6, 4), (6, 4, 2)], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_output_and_state_after_k_steps_are_those_of_the_unmasked_steps_alone(batch, of, steps):
    layer, mean, variance = masked(), np.array(MEAN), np.array(VARIANCE)
    for seed in range(steps):
        x, mask = batch((6, 4, 2, 3), seed), some(of, seed)
        y = layer(x, training=True, mask=mask)
        expected = reference.masked_batch_norm(x, mask, GAMMA, BETA, epsilon=EPSILON)
        np.testing.assert_allclose(y, expected, **CLOSE)
        batch_mean, batch_variance = reference.moments(x[mask])
        mean, variance = 0.6 * mean + 0.4 * batch_mean, 0.6 * variance + 0.4 * batch_variance
    assert_state(layer, {"moving_mean": mean, "moving_variance": variance})


@pytest.mark.parametrize("of", [(6,), (6, 4)], ids=str)
def test_the_gradient_is_that_of_the_unmasked_steps_and_zero_elsewhere(batch, of):
    x, dy, mask = batch((6, 4, 3)), batch((6, 4, 3), 1), some(of)
    _, *actual = output_and_gradients(masked(), x, dy, mask=mask)
    expected = reference.masked_gradient(dy, x, mask, np.array(GAMMA), epsilon=EPSILON)
    assert_all_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert not np.array(actual[0])[~mask].any()


@BOTH
@pytest.mark.parametrize("poison", [np.nan, np.inf, 3e38])
def test_whatever_stands_under_the_mask_changes_nothing(batch, training, poison):
    """Neither x nor the gradient that comes back is read there."""
    clean, poisoned = masked(), masked()
    x, dy, mask = batch((6, 4, 3)), batch((6, 4, 3), 1), some((6, 4))
    bad, bad_dy = np.where(mask[..., None], [x, dy], np.float32(poison))
    actual = output_and_gradients(poisoned, bad, bad_dy, training, mask=mask)
    expected = output_and_gradients(clean, x, dy, training, mask=mask)
    for each, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(each, wanted)
        assert np.isfinite(wanted).all()
    assert_same_state(poisoned, state(clean))


@BOTH
def test_without_a_mask_or_with_one_that_is_true_it_is_batch_norm(batch, training):
    x, dy = batch((6, 4, 3)), batch((6, 4, 3), 1)
    base = masked(BatchNorm)
    expected = output_and_gradients(base, x, dy, training)
    for extra in ({}, {"mask": None}, {"mask": np.full((6, 4), True)}):
        layer = masked()
        assert_all_close(output_and_gradients(layer, x, dy, training, **extra), expected)
        assert_all_close(state(layer).values(), state(base).values(), rtol=1e-6)


def test_at_inference_what_is_masked_is_zero_and_the_rest_the_populations(batch):
    layer, x, mask = masked(), batch((6, 4, 3)), some((6, 4))
    population = np.array(MEAN), np.array(VARIANCE)
    expected = reference.normalized_by(*population, x, GAMMA, BETA, epsilon=EPSILON)
    expected[~mask] = 0
    np.testing.assert_allclose(layer(x, mask=mask), expected, **CLOSE)
    assert not np.array(layer(x, mask=np.full((6, 4), False))).any()


def test_the_mask_comes_from_keras_and_is_passed_on(batch):
    layer, seen = masked(), []

    class Next(keras.layers.Layer):
        supports_masking = True

        def call(self, x, mask=None):
            seen.append(mask)
            return x

    x = batch((2, 4, 3))
    x[1, 2:] = 0
    y = Next()(layer(keras.layers.Masking()(x), training=True))
    mask = np.array([[True] * 4, [True, True, False, False]])
    np.testing.assert_array_equal(seen[0], mask)
    expected = reference.masked_batch_norm(x, mask, GAMMA, BETA, epsilon=EPSILON)
    np.testing.assert_allclose(y, expected, **CLOSE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:layer .*one value a channel")
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_it_is_batch_norm_of_the_compacted_rows(examples, positions, seed):
    random = np.random.default_rng(seed)
    mask = random.random((examples, positions)) < random.random()
    mask[random.integers(examples), random.integers(positions)] = True
    shape = (examples, positions, 3)
    x, dy = batch_of(shape, seed % 100), batch_of(shape, seed % 100 + 1)
    layer, base = masked(), masked(BatchNorm)
    y, dx, *sums = output_and_gradients(layer, x, dy, mask=mask)
    expected = output_and_gradients(base, x[mask], dy[mask])
    actual = [np.array(y)[mask], np.array(dx)[mask], *sums]
    assert_all_close(actual, expected, rtol=1e-3, atol=1e-3)
    assert_all_close(state(layer).values(), state(base).values(), rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize(
    "mask, message",
    [
        (np.ones(6, "float32"), "mask must be boolean; received float32"),
        (np.ones(6, "int32"), "mask must be boolean; received int32"),
        (np.full(5, True), r"mask must have the shape of the first axes .* received \(5,\)"),
        (np.full((6, 3), True), r"mask must have the shape of the first .* received \(6, 3\)"),
        (np.full((6, 4, 3), True), r"mask must have the shape of .* received \(6, 4, 3\)"),
        (np.array(True), r"mask must have the shape of the first axes .* received \(\)"),
    ],
    ids=["float", "integer", "short", "positions", "channels", "scalar"],
)
def test_a_mask_of_another_shape_or_type_is_refused_by_name(batch, mask, message, training):
    layer = masked()
    before = state(layer)
    with pytest.raises(ValueError, match=message):
        layer(batch((6, 4, 3)), training=training, mask=mask)
    assert_same_state(layer, before)


@BOTH
@pytest.mark.parametrize("examples", [1, 5])
def test_a_mask_whose_shape_only_a_run_can_tell_is_refused_by_name(batch, examples, training):
    layer = masked()
    before = state(layer)
    signature = [tf.TensorSpec((None, 3)), tf.TensorSpec((None,), tf.bool)]
    step = tf.function(
        lambda x, mask: layer(x, training=training, mask=mask), input_signature=signature
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="mask must have the shape of the"):
        step(batch((6, 3)), np.full(examples, True))
    assert_same_state(layer, before)


@pytest.mark.parametrize("graph", [False, True])
def test_a_mask_that_is_false_everywhere_is_refused_in_training_and_moves_nothing(batch, graph):
    layer = masked()
    before = state(layer)

    def step(x, mask):
        return layer(x, training=True, mask=mask)

    run = tf.function(step) if graph else step
    with pytest.raises(tf.errors.InvalidArgumentError, match="mask must be true for at least one"):
        run(tf.constant(batch((6, 4, 3))), tf.constant(np.full((6, 4), False)))
    assert_same_state(layer, before)
