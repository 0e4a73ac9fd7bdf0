"""Tests of bnref.BatchRenorm: r and d, the gradient that takes them for constants, schedules."""

import re

import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
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

from bnref import BatchNorm, BatchRenorm
from bnref.layers._schedule import Schedule

SIGMA = np.sqrt(np.array(VARIANCE) + EPSILON)
WIDE = {"r_max": 1e6, "d_max": 1e6}
# Rows near the population of `with_state`: r and d are inside the clips for some channels only.
NEAR = np.array([1.2, 2.0, 0.9]), np.array([-0.2, 0.6, -1.0])


def renorm(**options):
    return with_state(BatchRenorm(**{"momentum": 0.6, "epsilon": EPSILON, **CLIPPED, **options}))


def near(shape, seed=0, dtype="float32"):
    """A batch with r = 1.2, 2, 0.9 and d = -0.2, 0.6, -1 by the population of `with_state`."""
    x = np.random.default_rng(seed).normal(size=shape)
    axes = tuple(range(len(shape) - 1))
    x = (x - x.mean(axes)) / x.std(axes)
    r, d = NEAR
    return (x * np.sqrt((r * SIGMA) ** 2 - EPSILON) + d * SIGMA + MEAN).astype(dtype)


def correction(x, mean=MEAN, sigma=SIGMA, **limits):
    limits = {**CLIPPED, **limits}
    return reference.renorm_correction(x, mean, sigma, **limits, epsilon=EPSILON)


def test_the_corrections_of_these_tests_are_clipped_in_some_channels_and_not_in_others():
    r, d = correction(near((6, 3), dtype="float64"))
    np.testing.assert_allclose(r, [1.2, 1.5, 0.9])
    np.testing.assert_allclose(d, [-0.2, 0.5, -0.5])
    small = near((6, 3), dtype="float64") / 50
    np.testing.assert_allclose(correction(small)[0], [1 / 1.5] * 3)


@pytest.mark.parametrize("limits", [CLIPPED, WIDE, {"r_max": 1, "d_max": 0}, {"d_max": 0}])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 3)])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_output_and_every_variable_after_k_steps_are_those_of_the_paper(limits, shape, steps):
    """r and d go by the population before each update, which the next step's output shows."""
    layer = renorm(**limits)
    mean, variance = np.array(MEAN), np.array(VARIANCE)
    for seed in range(steps):
        x = near(shape, seed) * np.float32(1 + 0.2 * seed)
        r, d = correction(x, mean, np.sqrt(variance + EPSILON), **limits)
        expected = reference.batch_renorm(x, GAMMA, BETA, r, d, epsilon=EPSILON)
        np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-4, atol=1e-4)
        batch_mean, batch_variance = reference.moments(x)
        mean, variance = 0.6 * mean + 0.4 * batch_mean, 0.6 * variance + 0.4 * batch_variance
    population = {"moving_mean": mean, "moving_variance": variance}
    assert_state(layer, {**population, "steps": steps})


@pytest.mark.parametrize("limits", [CLIPPED, WIDE])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-4), ("float64", 1e-12)])
def test_the_gradient_is_the_papers_in_which_r_and_d_are_constants(batch, limits, dtype, tolerance):
    layer = renorm(dtype=dtype, **limits)
    x, dy = near((6, 3), dtype=dtype), batch((6, 3), 1, dtype)
    r, d = correction(x, **limits)
    expected = reference.batch_renorm_gradient(dy, x, np.array(GAMMA), r, d, epsilon=EPSILON)
    _, *actual = output_and_gradients(layer, x, dy)
    assert_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_where_nothing_is_clipped_training_is_inference_but_its_gradient_is_not(batch):
    """y is then a fixed line of x, γ(x - μ_P)/σ_P + β; a gradient through r and d would be that
    line's slope, γ·dy/σ_P. The paper's has no part along 1: it sums to 0 over the batch."""
    layer, x, dy = renorm(**WIDE), near((6, 3)), np.abs(batch((6, 3), 1))
    inferred = layer(x).numpy()
    y, dx, *_ = output_and_gradients(layer, x, dy)
    np.testing.assert_allclose(y, inferred, rtol=1e-4, atol=1e-4)
    slope = dy * np.array(GAMMA) / SIGMA
    np.testing.assert_allclose(np.sum(dx, 0), 0, atol=1e-4)
    assert np.all(np.abs(np.sum(slope, 0)) > 0.1)


def test_the_papers_average_is_of_sigma_and_this_layers_of_its_square():
    layer, batches = renorm(), [near((6, 3), seed) * np.float32(1 + seed) for seed in range(3)]
    for x in batches:
        layer(x, training=True)
    mean, sigma = reference.renorm_population_of_deviations(
        (MEAN, SIGMA), batches, momentum=0.6, epsilon=EPSILON
    )
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    ours = np.sqrt(np.array(layer.moving_variance) + EPSILON)
    assert np.all(ours > 1.02 * sigma)


@pytest.mark.parametrize(
    "r_max, d_max, values",
    [
        (1.5, 0.5, {0: (1.5, 0.5), 10**6: (1.5, 0.5)}),
        (
            ((5000, 1), (40000, 3)),
            ((5000, 0), (25000, 5)),
            {
                0: (1, 0), 5000: (1, 0), 22500: (2, 4.375), 25000: (1 + 2 * 20 / 35, 5),
                40000: (3, 5), 10**7: (3, 5),
            },
        ),
        ([(10, 2)], [(0, 0), (4, 1), (8, 5)], {0: (2, 0), 2: (2, 0.5), 4: (2, 1), 7: (2, 4)}),
    ],
    ids=["constant", "the paper's", "three points"],
)  # fmt: skip
def test_limits_go_in_straight_lines_from_point_to_point(r_max, d_max, values):
    limits = Schedule(r_max, name="r_max", least=1), Schedule(d_max, name="d_max", least=0)
    for step, expected in values.items():
        for actual, wanted in zip((limit(step) for limit in limits), expected, strict=True):
            assert actual.dtype == tf.float32
            np.testing.assert_allclose(actual, wanted, rtol=1e-6, err_msg=str(step))


def test_the_default_schedule_is_the_papers_and_goes_by_the_steps_of_training(batch):
    layer = with_state(BatchRenorm(momentum=0.6, epsilon=EPSILON))
    assert layer.get_config()["r_max"] == [[5000, 1], [40000, 3]]
    assert layer.get_config()["d_max"] == [[5000, 0], [25000, 5]]
    x = near((6, 3))
    for step, limits in {0: (1, 0), 22500: (2, 4.375), 10**6: (3, 5)}.items():
        with_state(layer).steps.assign(step)
        layer(x)
        r, d = correction(x, r_max=limits[0], d_max=limits[1])
        expected = reference.batch_renorm(x, GAMMA, BETA, r, d, epsilon=EPSILON)
        np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-4, atol=1e-4)
        assert int(layer.steps) == step + 1


@pytest.mark.parametrize("jit", [None, False, True], ids=["eager", "graph", "compiled"])
def test_the_first_step_goes_by_the_schedules_value_at_zero_and_so_on_without_tracing_again(jit):
    layer = renorm(r_max=[(0, 1), (2, 1.5)], d_max=[(0, 0), (2, 0.5)])

    def train(x):
        return layer(x, training=True)

    step = train if jit is None else tf.function(train, jit_compile=jit)
    mean, variance = np.array(MEAN), np.array(VARIANCE)
    for number in range(4):
        x, passed = near((6, 3), number), min(number, 2) / 2
        limits = {"r_max": 1 + 0.5 * passed, "d_max": 0.5 * passed}
        r, d = correction(x, mean, np.sqrt(variance + EPSILON), **limits)
        expected = reference.batch_renorm(x, GAMMA, BETA, r, d, epsilon=EPSILON)
        np.testing.assert_allclose(step(tf.constant(x)), expected, rtol=1e-4, atol=1e-4)
        batch_mean, batch_variance = reference.moments(x)
        mean, variance = 0.6 * mean + 0.4 * batch_mean, 0.6 * variance + 0.4 * batch_variance
    assert jit is None or step.experimental_get_tracing_count() == 1
    assert int(layer.steps) == 4


def test_inference_is_that_of_the_base_and_counts_no_step(batch):
    layer, base, x = renorm(), with_state(BatchNorm(epsilon=EPSILON)), batch((6, 3))
    before = state(layer)
    np.testing.assert_array_equal(layer(x), base(x))
    assert_same_state(layer, before)


@pytest.mark.slow
@given(st.integers(1, 9), st.integers(0, 99))
def test_without_room_for_r_and_d_it_is_batch_norm(size, seed):
    x, dy = batch_of((size, 2, 3), seed), batch_of((size, 2, 3), seed + 1)
    layer, base = renorm(r_max=1, d_max=0), with_state(BatchNorm(momentum=0.6, epsilon=EPSILON))
    actual, expected = output_and_gradients(layer, x, dy), output_and_gradients(base, x, dy)
    assert_all_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert_all_close(list(state(layer).values())[:4], state(base).values(), rtol=1e-6)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("r_max", 0.5, "be at least 1 everywhere"),
        ("r_max", [(0, 1), (5, 0.5)], "be at least 1 everywhere"),
        ("r_max", [], "be at least 1 everywhere"),
        ("d_max", -0.1, "be at least 0 everywhere"),
        ("d_max", [(0, -1), (5, 1)], "be at least 0 everywhere"),
        ("r_max", [(0, 3), (5, 2)], "never fall"),
        ("d_max", [(0, 0), (5, 2), (9, 1)], "never fall"),
        ("r_max", [(0, 1), (0, 2)], "have steps that rise"),
        ("d_max", [(5, 1), (3, 2)], "have steps that rise"),
    ],
)
def test_schedules_out_of_range_or_order_are_refused_by_name(name, value, message):
    with pytest.raises(ValueError, match=re.escape(f"{name} must {message}; received {value!r}")):
        BatchRenorm(**{name: value})


@pytest.mark.parametrize("name", ["r_max", "d_max"])
@pytest.mark.parametrize(
    "points, point",
    [
        ([(0, 1, 2)], (0, 1, 2)),
        ([(0,)], (0,)),
        ([0, 1], 0),
        ([(0, None)], (0, None)),
        ([(0, float("inf"))], (0, float("inf"))),
        (float("nan"), (0.0, float("nan"))),
    ],
)
def test_points_that_are_no_pairs_of_finite_numbers_are_refused_by_name(name, points, point):
    message = rf"{name} must be a number or pairs \(step, value\); received "
    with pytest.raises(ValueError, match=message + re.escape(repr(point))):
        BatchRenorm(**{name: points})


@pytest.mark.parametrize("value", ["abc", None, True, [("a", 1)], [(0, True)]])
def test_a_limit_that_is_no_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match="r_max must be a number or pairs"):
        BatchRenorm(r_max=value)
