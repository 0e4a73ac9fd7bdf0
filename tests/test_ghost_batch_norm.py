"""Tests of bnref.GhostBatchNorm: each part of the batch by itself, one update a batch."""

import re

import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
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
from layers_under_test import CLIPPED

from bnref import BatchNorm, BatchRenorm, GhostBatchNorm, MaskedBatchNorm


def ghost(groups, kind=GhostBatchNorm, **options):
    return with_state(kind(groups=groups, momentum=0.6, epsilon=EPSILON, **options))


def remembered(batches, groups, *, sequential=False):
    return reference.ghost_population(
        (MEAN, VARIANCE), batches, groups=groups, momentum=0.6, sequential=sequential
    )


@pytest.mark.filterwarnings("ignore:layer .*one value a channel")
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(6, 3), (6, 2, 2, 3)])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_output_and_state_after_k_steps_are_those_of_the_paper_but_for_one_update_a_batch(
    batch, groups, shape, steps
):
    layer, batches = ghost(groups), [batch(shape, seed) for seed in range(steps)]
    for x in batches:
        y = layer(x, training=True)
        expected = reference.ghost_batch_norm(x, GAMMA, BETA, groups=groups, epsilon=EPSILON)
        np.testing.assert_allclose(y, expected, **CLOSE)
    mean, variance = remembered(batches, groups)
    assert_state(layer, {"moving_mean": mean, "moving_variance": variance})


def test_the_papers_update_after_every_ghost_batch_weighs_the_later_ones_more(batch):
    """It gives ghost g of G the weight (1 - ρ)ρ^(G - g), and the start ρ^G instead of ρ."""
    layer, x = ghost(3), batch((6, 3)) + np.float32(np.arange(6)[:, None] * 4)
    layer(x, training=True)
    ghosts = np.array([reference.moments(part) for part in reference.parts(x, 3)])
    weights = 0.4 * 0.6 ** (3 - np.arange(1, 4))
    start = np.array([MEAN, VARIANCE])
    sequential = 0.6**3 * start + np.tensordot(weights, ghosts, 1)
    np.testing.assert_allclose(sequential, remembered([x], 3, sequential=True))
    ours = 0.6 * start + 0.4 * np.mean(ghosts, 0)
    np.testing.assert_allclose([layer.moving_mean, layer.moving_variance], ours, rtol=1e-5)
    assert np.all(np.abs(sequential - ours) > 0.1)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_gradient_is_that_of_each_part_and_sums_those_of_gamma_and_beta(batch, groups):
    layer, x, dy = ghost(groups), batch((6, 4, 3)), batch((6, 4, 3), 1)
    _, *actual = output_and_gradients(layer, x, dy)
    expected = reference.ghost_gradient(dy, x, np.array(GAMMA), groups=groups, epsilon=EPSILON)
    assert_all_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_nan_in_one_part_reaches_no_output_and_no_gradient_of_another(batch):
    clean, poisoned, x, dy = ghost(3), ghost(3), batch((6, 3)), batch((6, 3), 1)
    bad = x.copy()
    bad[2, 1] = np.nan
    actual, expected = output_and_gradients(poisoned, bad, dy), output_and_gradients(clean, x, dy)
    for each, wanted in zip(actual[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(np.delete(each, [2, 3], 0), np.delete(wanted, [2, 3], 0))
        assert np.isnan(np.array(each)[2:4, 1]).all()


def test_the_population_has_the_parts_variance_not_the_batchs(batch):
    """Parts of means far apart: the variance between them is in no part."""
    layer = with_state(GhostBatchNorm(groups=2, momentum=0.0))
    x = batch((8, 3)) + np.float32([[0.0]] * 4 + [[500.0]] * 4)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, x.mean(0), rtol=1e-5)
    within = (x[:4].var(0) + x[4:].var(0)) / 2
    np.testing.assert_allclose(layer.moving_variance, within, rtol=1e-4)
    assert np.all(x.var(0) > 100 * within)


def test_inference_takes_batches_that_the_number_of_parts_does_not_divide(batch):
    layer, x = ghost(4), batch((3, 3))
    before = state(layer)
    population = np.array(MEAN), np.array(VARIANCE)
    expected = reference.normalized_by(*population, x, GAMMA, BETA, epsilon=EPSILON)
    np.testing.assert_allclose(layer(x), expected, **CLOSE)
    assert_same_state(layer, before)


class Both(GhostBatchNorm, BatchRenorm):
    """Questions 1 and 3."""


@pytest.mark.parametrize("steps", [1, 3])
def test_with_renormalization_each_part_has_its_own_r_and_d(batch, steps):
    layer, mean, variance = ghost(2, Both, **CLIPPED), MEAN, VARIANCE
    for seed in range(steps):
        x, dy, outputs, dxs = batch((8, 3), seed), batch((8, 3), 9), [], []
        actual = output_and_gradients(layer, x, dy)
        for part, part_dy in zip(np.split(x, 2), np.split(dy, 2), strict=True):
            r, d = reference.renorm_correction(
                part, mean, np.sqrt(np.array(variance) + EPSILON), **CLIPPED, epsilon=EPSILON
            )
            outputs += list(
                reference.batch_renorm(part, GAMMA, BETA, r, d, epsilon=EPSILON)
            )  # fmt: skip
            dx, *_ = reference.batch_renorm_gradient(
                part_dy, part, np.array(GAMMA), r, d, epsilon=EPSILON
            )
            dxs += list(dx)
        assert_all_close(actual[:2], [outputs, dxs], rtol=1e-4, atol=1e-4)
        mean, variance = reference.ghost_population(
            (mean, variance), [x], groups=2, momentum=0.6, sequential=False
        )
    expected = {"moving_mean": mean, "moving_variance": variance, "steps": steps}
    np.testing.assert_allclose([layer.moving_mean, layer.moving_variance], [mean, variance], 1e-5)
    assert int(layer.steps) == expected["steps"]


@pytest.mark.filterwarnings("ignore:layer .*one value a channel")
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_order_of_the_examples_in_a_part_is_only_that_of_the_outputs(groups, size, seed):
    random = np.random.default_rng(seed)
    x = batch_of((groups * size, 3), seed % 100)
    order = np.concatenate([random.permutation(size) + g * size for g in range(groups)])
    straight, permuted = ghost(groups), ghost(groups)
    y = straight(x, training=True).numpy()
    np.testing.assert_allclose(permuted(x[order], training=True), y[order], rtol=1e-3, atol=1e-3)
    assert_all_close(state(permuted).values(), state(straight).values(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@given(st.integers(1, 9), st.integers(0, 99))
def test_one_part_is_batch_norm(size, seed):
    x, dy = batch_of((size, 2, 3), seed), batch_of((size, 2, 3), seed + 1)
    layer, base = ghost(1), with_state(BatchNorm(momentum=0.6, epsilon=EPSILON))
    actual, expected = output_and_gradients(layer, x, dy), output_and_gradients(base, x, dy)
    assert_all_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert_all_close(state(layer).values(), state(base).values(), rtol=1e-6)


@pytest.mark.parametrize("groups", [0, -1, 1.5, 2.0, True, "2", None])
def test_a_number_of_groups_that_is_no_whole_number_above_zero_is_refused_by_name(groups):
    message = f"groups must be a whole number, at least 1; received {re.escape(repr(groups))}"
    with pytest.raises(ValueError, match=message):
        GhostBatchNorm(groups=groups)


@pytest.mark.parametrize("known", [True, False])
def test_a_batch_that_the_parts_do_not_divide_is_refused_in_training_and_moves_nothing(
    batch, known
):
    layer = ghost(4)
    before = state(layer)
    step = tf.function(
        lambda x: layer(x, training=True), input_signature=[tf.TensorSpec((None, 3))]
    )
    error = ValueError if known else tf.errors.InvalidArgumentError
    message = "groups must divide the batch; received groups=4 for a batch of" + (" 6" * known)
    with pytest.raises(error, match=message):
        layer(batch((6, 3)), training=True) if known else step(batch((6, 3)))
    assert_same_state(layer, before)


def test_a_mask_is_not_silently_left_out_of_a_part():
    with pytest.raises(TypeError, match="GhostBatchNorm and MaskedBatchNorm, which both answer"):

        class Both(GhostBatchNorm, MaskedBatchNorm):
            pass
