"""Tests of bnref.LasagneBatchNorm: an average of 1/σ."""

import numpy as np
import pytest
import reference
from helpers import (
    BETA,
    CLOSE,
    GAMMA,
    MEAN,
    VARIANCE,
    assert_all_close,
    assert_state,
    output_and_gradients,
    state,
    with_state,
)

from bnref import BatchNorm, LasagneBatchNorm

EPSILON = 1e-4


def start(variance=VARIANCE):
    return np.array(MEAN), 1 / np.sqrt(np.array(variance) + EPSILON)


@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_factor_remembered_after_k_steps_is_lasagnes(batch, momentum, steps):
    layer = with_state(LasagneBatchNorm(momentum=momentum))
    batches = [batch((6, 2, 3), seed) for seed in range(steps)]
    for x in batches:
        y = layer(x, training=True)
    expected = reference.batch_norm(batches[-1], GAMMA, BETA, epsilon=EPSILON)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    mean, inv_std = reference.lasagne_population(
        start(), batches, alpha=1 - momentum, epsilon=EPSILON
    )
    assert_state(layer, {"moving_mean": mean, "moving_variance": 1 / inv_std**2 - EPSILON})

    x = batch((4, 3), 50)
    inferred = np.array(GAMMA) * (x - mean) * inv_std + BETA
    np.testing.assert_allclose(layer(x), inferred, rtol=1e-4, atol=1e-4)


def test_a_new_layer_starts_at_one_over_the_root_of_one_plus_epsilon_not_at_one(batch):
    layer, x = LasagneBatchNorm(), batch((4, 3))
    np.testing.assert_allclose(layer(x), x / np.sqrt(1 + EPSILON), rtol=1e-6)
    layer(x, training=True)
    mean, inv_std = reference.lasagne_population(
        (np.zeros(3), np.full(3, 1 / np.sqrt(1 + EPSILON))), [x], alpha=0.1, epsilon=EPSILON
    )
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 1 / inv_std**2 - EPSILON, rtol=1e-5)


def test_small_variances_weigh_more_than_in_an_average_of_variances(batch):
    layer, base = LasagneBatchNorm(), BatchNorm(momentum=0.9)
    for seed in range(6):
        x = batch((6, 3)) * np.float32(10.0 ** (seed % 2))
        layer(x, training=True)
        base(x, training=True)
    assert np.all(np.array(layer.moving_variance) < 0.7 * np.array(base.moving_variance))
    np.testing.assert_allclose(layer.moving_mean, base.moving_mean, rtol=1e-5)


def test_the_defaults_are_lasagnes():
    layer = LasagneBatchNorm()
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-4)


def test_a_constant_channel_leaves_a_variance_that_normalizes(batch):
    """1/√ε is the largest factor that can be remembered; momentum 0 remembers nothing else."""
    layer = with_state(LasagneBatchNorm(momentum=0.0))
    layer(np.full((6, 3), [1.0, -2.0, 300.0], "float32"), training=True)
    np.testing.assert_allclose(layer.moving_variance, 0, atol=1e-10)
    x = np.array([[1.01, -2.0, 299.0]], "float32")
    expected = np.array(GAMMA) * (x - [1, -2, 300]) / np.sqrt(EPSILON) + BETA
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4)


def test_training_is_that_of_the_base(batch):
    layer, base = (with_state(kind(epsilon=EPSILON)) for kind in (LasagneBatchNorm, BatchNorm))
    x, dy = batch((6, 3)), batch((6, 3), 1)
    assert_all_close(output_and_gradients(layer, x, dy), output_and_gradients(base, x, dy), **CLOSE)
    assert list(state(layer)) == list(state(base))
