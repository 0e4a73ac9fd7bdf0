"""Tests of the closed forms of an exponential average, against its weights one by one."""

import numpy as np
import pytest

import bnref
from bnref.moving_average import fluctuation, lag, start_weight

CASES = [(rho, phi) for rho in (0.0, 0.5, 0.9, 0.99) for phi in (-0.5, 0.0, 0.3, 0.9, 0.99)]


def weights(rho, steps):
    """Of the start, and of each batch from first to last."""
    each = [(1 - rho) * rho ** (steps - i) for i in range(1, steps + 1)]
    return rho**steps, np.array(each)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.99, 1.0])
def test_the_start_keeps_the_weight_that_the_batches_do_not_have(rho):
    for steps in (0, 1, 7, 100):
        start, batches = weights(rho, steps)
        assert start_weight(rho, steps) == pytest.approx(start)
        assert start_weight(rho, steps) == pytest.approx(1 - batches.sum())


def test_the_layer_agrees_with_the_start_weight():
    layer = bnref.BatchNorm(momentum=0.9)
    x = np.array([[3.0], [5.0]], "f4")
    for _ in range(12):
        layer(x, training=True)
    kept = start_weight(0.9, 12)
    assert float(layer.moving_mean[0]) == pytest.approx(4 * (1 - kept), rel=1e-5)
    assert float(layer.moving_variance[0]) == pytest.approx(kept + (1 - kept) * 1, rel=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.99])
def test_the_average_is_so_many_steps_behind_a_ramp(rho):
    steps = 4000
    _, batches = weights(rho, steps)
    assert steps - batches @ np.arange(1, steps + 1) == pytest.approx(lag(rho), abs=1e-6)


@pytest.mark.parametrize("rho, phi", CASES)
def test_the_fluctuation_is_that_of_the_weighted_sum_of_correlated_batches(rho, phi):
    for steps in (0, 1, 2, 5, 60):
        _, each = weights(rho, steps)
        covariance = phi ** np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
        expected = np.sqrt(each @ covariance @ each)
        assert fluctuation(rho, phi, steps) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rho, phi", CASES)
def test_many_steps_come_to_the_closed_form(rho, phi):
    assert fluctuation(rho, phi, 5000) == pytest.approx(fluctuation(rho, phi), rel=1e-6)


def test_known_values():
    assert lag(0.99) == pytest.approx(99)
    assert fluctuation(0.99) == pytest.approx(np.sqrt(0.01 / 1.99))
    assert fluctuation(0.99) ** -2 == pytest.approx(199)  # independent batches
    assert fluctuation(0.9, 0.9) ** -2 == pytest.approx(19 * 0.19 / 1.81)
    assert start_weight(0.99, 100) == pytest.approx(0.366, abs=5e-4)


def test_arrays_are_taken():
    rho = np.array([0.5, 0.9])
    np.testing.assert_allclose(fluctuation(rho, 0.5), [fluctuation(r, 0.5) for r in rho])
    np.testing.assert_allclose(start_weight(0.9, np.arange(4)), 0.9 ** np.arange(4))
    np.testing.assert_allclose(lag(rho), [1, 9])


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: start_weight(1.1, 5), "momentum must be between 0 and 1; received 1.1"),
        (lambda: start_weight(0.9, -1), "steps must be between 0 and inf; received -1"),
        (lambda: lag(1.0), "momentum must be between 0 and 1; received 1.0"),
        (lambda: lag("0.9"), "momentum must be a number; received '0.9'"),
        (lambda: lag(float("nan")), "momentum must be between 0 and 1; received nan"),
        (lambda: fluctuation(0.9, 1.0), "correlation must be between -1 and 1; received 1.0"),
        (lambda: fluctuation(0.9, 0.5, -3), "steps must be between 0 and inf; received -3"),
        (
            lambda: fluctuation([0.9, 2], 0.5),
            r"momentum must be between 0 and 1; received \[0.9, 2",
        ),
    ],
)
def test_impossible_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        call()
