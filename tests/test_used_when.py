"""Tests of the layers that answer "used when?": frozen, untracked, example weighing.

Batch renormalization, which answers it too, has a file of its own.
"""

import re

import numpy as np
import pytest
import reference
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

from bnref import BatchNorm, ExampleWeighingBatchNorm, FrozenBatchNorm, UntrackedBatchNorm

POPULATION = np.array(MEAN), np.array(VARIANCE)


def of(kind, **options):
    return with_state(kind(momentum=0.6, epsilon=EPSILON, **options))


def weighing(weight):
    return of(ExampleWeighingBatchNorm, example_weight=weight)


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_frozen_is_the_populations_line_and_stays_it_after_k_steps(batch, training, steps):
    layer = of(FrozenBatchNorm)
    for seed in range(steps):
        x, dy = batch((6, 2, 3), seed), batch((6, 2, 3), 1)
        actual = output_and_gradients(layer, x, dy, training)
    y = reference.normalized_by(*POPULATION, x, GAMMA, BETA, epsilon=EPSILON)
    inverse = 1 / np.sqrt(POPULATION[1] + EPSILON)
    dgamma = np.sum(dy * (x - POPULATION[0]) * inverse, (0, 1))
    expected = [y, dy * np.array(GAMMA) * inverse, dgamma, np.sum(dy, (0, 1))]
    assert_all_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert_state(layer, {})
    assert [each.name for each in layer.trainable_variables] == ["gamma", "beta"]


def test_frozen_lets_no_example_reach_another_in_training(batch):
    layer, x, dy = of(FrozenBatchNorm), batch((6, 3)), batch((6, 3), 1)
    y, dx, *_ = output_and_gradients(layer, x, dy)
    x[2] = np.nan
    poisoned_y, poisoned_dx, *_ = output_and_gradients(layer, x, dy)
    np.testing.assert_array_equal(np.delete(poisoned_y, 2, 0), np.delete(y, 2, 0))
    np.testing.assert_array_equal(np.delete(poisoned_dx, 2, 0), np.delete(dx, 2, 0))


@BOTH
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_untracked_is_the_batchs_in_both_and_remembers_nothing(batch, training, steps):
    layer = of(UntrackedBatchNorm)
    for seed in range(steps):
        x, dy = batch((6, 2, 3), seed), batch((6, 2, 3), 1)
        actual = output_and_gradients(layer, x, dy, training)
    y = reference.batch_norm(x, GAMMA, BETA, epsilon=EPSILON)
    gradient = reference.batch_norm_gradient(dy, x, np.array(GAMMA), epsilon=EPSILON)
    assert_all_close(actual, [y, *gradient], rtol=1e-4, atol=1e-4)
    assert_state(layer, {})


def test_untracked_uses_the_batch_when_it_is_not_trainable_too(batch):
    layer, x = of(UntrackedBatchNorm), batch((6, 3))
    layer.trainable = False
    expected = reference.batch_norm(x, GAMMA, BETA, epsilon=EPSILON)
    np.testing.assert_allclose(layer(x, training=True), expected, **CLOSE)
    assert layer.trainable_variables == []


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("shape", [(6, 3), (6, 5, 3), (6, 2, 2, 3)])
def test_weighing_is_the_papers_mixture_of_squares_at_inference(batch, weight, shape):
    layer, x = weighing(weight), batch(shape)
    expected = reference.example_weighing(
        x, GAMMA, BETA, *POPULATION, weight=weight, epsilon=EPSILON
    )
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert_state(layer, {})


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_weighing_trains_as_batch_norm(batch, steps):
    layer, base = weighing(0.3), of(BatchNorm)
    for seed in range(steps):
        x, dy = batch((6, 2, 3), seed), batch((6, 2, 3), 9)
        assert_all_close(output_and_gradients(layer, x, dy), output_and_gradients(base, x, dy))
    assert_same_state(layer, state(base))


def test_weighing_keeps_its_digits_at_a_mean_of_ten_thousand_deviations():
    """The paper's σ² is a difference of squares of 10⁸, of which float32 keeps no digit below 8."""
    layer = weighing(0.3)
    mean = np.array([1e4, -1e4, 3e3])
    layer.moving_mean.assign(mean + [1, -2, 3])
    x = (np.random.default_rng(0).normal(size=(4, 50, 3)) + mean).astype("float32")
    population = np.array(layer.moving_mean, "float64"), POPULATION[1]
    expected = reference.example_weighing(x, GAMMA, BETA, *population, weight=0.3, epsilon=EPSILON)
    np.testing.assert_allclose(layer(x), expected, atol=5e-3)


def test_weighing_lets_no_example_reach_another_at_inference_nor_its_gradient(batch):
    layer, x, dy = weighing(0.3), batch((6, 4, 3)), batch((6, 4, 3), 1)
    y, dx, *_ = output_and_gradients(layer, x, dy, training=False)
    x[2] = np.nan
    poisoned_y, poisoned_dx, *_ = output_and_gradients(layer, x, dy, training=False)
    np.testing.assert_array_equal(np.delete(poisoned_y, 2, 0), np.delete(y, 2, 0))
    np.testing.assert_array_equal(np.delete(poisoned_dx, 2, 0), np.delete(dx, 2, 0))
    assert np.isnan(np.array(poisoned_y)[2]).all()


def test_the_weight_can_be_set_after_training_and_is_saved(batch):
    layer, x = weighing(0.3), batch((6, 4, 3))
    layer.example_weight = 0.1
    expected = reference.example_weighing(x, GAMMA, BETA, *POPULATION, weight=0.1, epsilon=EPSILON)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    again = ExampleWeighingBatchNorm.from_config(layer.get_config())
    assert again.example_weight == layer.get_config()["example_weight"] == 0.1


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_weight_zero_is_batch_norm_at_inference(examples, positions, seed):
    x, dy = (batch_of((examples, positions, 3), each) for each in (seed, seed + 1))
    actual = output_and_gradients(weighing(0.0), x, dy, training=False)
    expected = output_and_gradients(of(BatchNorm), x, dy, training=False)
    assert_all_close(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("weight", [-0.1, 1, 1.5, float("nan"), True])
def test_a_weight_out_of_range_is_refused_by_name_when_made_and_when_set(weight):
    message = re.escape(f"example_weight must be a number in [0, 1); received {weight!r}")
    with pytest.raises(ValueError, match=message):
        ExampleWeighingBatchNorm(example_weight=weight)
    layer = weighing(0.3)
    with pytest.raises(ValueError, match=message):
        layer.example_weight = weight
    assert layer.example_weight == 0.3


@given(
    st.sampled_from([BatchNorm, UntrackedBatchNorm]),
    st.integers(2, 9),
    st.integers(0, 99),
    st.floats(0.1, 10),
    st.floats(-100, 100),
)
def test_stretching_and_shifting_a_channel_changes_no_output_in_training(
    kind, size, seed, scale, shift
):
    """With ε stretched along, x̂ = (ax + b - aμ - b)/√(a²σ² + a²ε) is what it was."""
    x = batch_of((size, 2, 3), seed, "float64")
    options = {"dtype": "float64", "momentum": 0.6}
    y = with_state(kind(epsilon=EPSILON, **options))(x, training=True)
    stretched = with_state(kind(epsilon=EPSILON * scale**2, **options))
    actual = stretched(x * scale + shift, training=True)
    np.testing.assert_allclose(actual, y, rtol=1e-8, atol=1e-8)
    # What is remembered is stretched and shifted as well.
    mean, variance = reference.moments(x * scale + shift)
    if kind is BatchNorm:
        np.testing.assert_allclose(stretched.moving_mean, 0.6 * np.array(MEAN) + 0.4 * mean)
        wanted = 0.6 * np.array(VARIANCE) + 0.4 * variance
        np.testing.assert_allclose(stretched.moving_variance, wanted)


@pytest.mark.parametrize("weight", ["0.1", None, False])
def test_a_weight_that_is_no_number_is_refused_by_name(weight):
    with pytest.raises(ValueError, match="example_weight must be a number"):
        ExampleWeighingBatchNorm(example_weight=weight)
