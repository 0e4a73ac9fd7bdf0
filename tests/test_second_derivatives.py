"""Tests of bnref_gallery.second_derivatives: each task, of a critic without norms."""

import numpy as np
import pytest
import tensorflow as tf

from bnref_gallery.second_derivatives import TASKS, Critic

random = np.random.default_rng(0)
WEIGHTS = random.normal(0, 0.3, (2, 3, 3, 16, 16))
X, Y = random.normal(size=(4, 8, 8, 1)), np.array([1.0, -1, -1, 1])


def plain(x, training):
    assert training is True
    return 2 * x + 1


CRITIC = Critic([plain, plain], tf.nn.softplus)


def given(weights=WEIGHTS, x=X):
    return [tf.constant(each, tf.float64) for each in (weights, x, Y)]


def loss(weights=WEIGHTS, rows=slice(None)):
    """The mean squared error of some examples, as a number."""
    weights, x, y = given(weights)
    return np.mean((np.array(CRITIC(weights, x[rows])) - np.array(y[rows])) ** 2)


def slope(function, at, direction, size=1e-5):
    return (function(at + size * direction) - function(at - size * direction)) / (2 * size)


def test_scores_are_means_over_convolutions_of_patches():
    """In a kernel of the middle alone a convolution is a product for each patch of 4×4."""
    middle = np.zeros_like(WEIGHTS)
    middle[:, 1, 1] = WEIGHTS[:, 1, 1]
    patches = X.reshape(4, 2, 4, 2, 4).transpose(0, 1, 3, 2, 4).reshape(4, 2, 2, 16)
    for kernel in middle[:, 1, 1]:
        patches = np.log1p(np.exp(2 * (patches @ kernel) + 1))
    wanted = 4 * patches.mean((1, 2, 3))
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(CRITIC(*given(middle)[:2]), wanted, rtol=1e-9)


def test_the_first_derivative_is_that_of_the_loss():
    np.testing.assert_allclose(TASKS["first derivative"](CRITIC, *given()), loss(), rtol=1e-9)


def test_the_penalty_is_how_far_each_examples_slope_is_from_length_1():
    def scores(x):
        return np.array(CRITIC(*given(x=x)[:2]))

    slopes = []
    for place in np.ndindex(8, 8):
        direction = np.zeros_like(X)
        direction[:, *place] = 1
        slopes.append(slope(scores, X, direction))
    lengths = np.sqrt(np.square(slopes).sum(0))
    penalty = TASKS["gradient penalty"](CRITIC, *given())
    np.testing.assert_allclose(penalty, np.mean((lengths - 1) ** 2), rtol=1e-6)


def test_the_slope_of_the_loss_is_taken_along_one_direction():
    direction = np.random.default_rng(1).standard_normal(WEIGHTS.shape)
    found = TASKS["Hessian times a vector"](CRITIC, *given())
    np.testing.assert_allclose(found, slope(loss, WEIGHTS, direction), rtol=1e-6)


def test_maml_tests_on_the_second_half_what_the_first_has_taught():
    weights, x, y = given()
    with tf.GradientTape() as tape:
        tape.watch(weights)
        error = tf.reduce_mean((CRITIC(weights, x[:2]) - y[:2]) ** 2)
    after = WEIGHTS - 0.1 * np.array(tape.gradient(error, weights))
    wanted = loss(after, slice(2, None))
    found = TASKS["MAML, outer gradient"](CRITIC, *given())
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    assert abs(wanted - loss(WEIGHTS, slice(2, None))) > 1e-3 * wanted


@pytest.mark.parametrize("norms", [1, 3])
def test_there_is_a_kernel_for_each_norm(norms):
    with pytest.raises(ValueError, match="zip"):
        Critic([plain] * norms, tf.nn.relu)(*given()[:2])
