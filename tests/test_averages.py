"""Tests of the layers that answer "remembered how?" by other averages than the exponential."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import BETA, GAMMA

from bnref.layers import BatchNorm, CumulativeBatchNorm, DebiasedBatchNorm


def debiased(momentum=0.6):
    return DebiasedBatchNorm(momentum=momentum, epsilon=0.02)


def cumulative():
    return CumulativeBatchNorm(epsilon=0.02)


def population_after(batches, layer):
    """The reference's averages of the batches' means and of their variances."""
    return [
        reference.cumulative_average(statistics)
        if isinstance(layer, CumulativeBatchNorm)
        else reference.debiased_average(statistics, momentum=layer.momentum)
        for statistics in zip(*map(reference.moments, batches), strict=True)
    ]


def assert_remembered(layer, batches, *, rtol=2e-5):
    mean, variance = population_after(batches, layer)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=rtol)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=rtol)
    assert int(layer.updates) == len(batches)
    np.testing.assert_array_equal(layer.gamma, np.float32(GAMMA))
    np.testing.assert_array_equal(layer.beta, np.float32(BETA))
    assert len(layer.variables) == 5


def with_state(layer):
    """Built for three channels, γ and β set; the population set to what must have no part."""
    layer.build((None, 3))
    for variable, value in zip(
        layer.variables[:4], (GAMMA, BETA, [7.0, 70.0, 700.0], [3.0, 30.0, 300.0]), strict=True
    ):
        variable.assign(np.array(value))
    return layer


@pytest.fixture(params=[debiased, cumulative])
def layer(request):
    return with_state(request.param())


@pytest.mark.parametrize("jit", [None, False, True], ids=["eager", "graph", "compiled"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_variable_after_k_steps_is_the_closed_form(batch, layer, steps, jit):
    def step(x):
        return layer(x, training=True)

    run = step if jit is None else tf.function(step, jit_compile=jit)
    batches = [batch((6, 3), seed) for seed in range(steps)]
    for x in batches:
        y = run(tf.constant(x))
        expected = reference.batch_norm(x, GAMMA, BETA, epsilon=0.02)
        np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-5)
    assert_remembered(layer, batches)

    x = batch((4, 3), 50)
    expected = reference.normalized_by(
        *population_after(batches, layer), x, GAMMA, BETA, epsilon=0.02
    )
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert_remembered(layer, batches)


@pytest.mark.parametrize("momentum", [0, 0.9, 0.999999])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_debiased_average_is_right_for_momentum_zero_and_close_to_one(batch, momentum, steps):
    layer = with_state(debiased(momentum))
    batches = [batch((6, 3), seed) for seed in range(steps)]
    for x in batches:
        layer(x, training=True)
    assert_remembered(layer, batches)


@pytest.mark.parametrize("update", [1, 2, 5, 1000, 10**8])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.9, 0.999999])
def test_the_weight_of_a_batch_goes_from_one_over_t_to_one_minus_momentum(momentum, update):
    """None: the plain mean of all batches. In float64, so that the weight can be read back."""
    kind = CumulativeBatchNorm if momentum is None else DebiasedBatchNorm
    layer = kind(momentum=momentum or 0.0, dtype="float64")
    layer.build((None, 1))
    layer.updates.assign(update - 1)
    layer.moving_mean.assign([1.0])
    layer(np.array([[3.0], [5.0]]), training=True)
    weight = (float(layer.moving_mean[0]) - 1) / (4 - 1)
    expected = 1 / update if momentum is None else (1 - momentum) / (1 - momentum**update)
    assert weight == pytest.approx(expected, rel=1e-6)
    assert int(layer.updates) == update


@pytest.mark.parametrize("momentum", [0.0, 0.99, 0.999999])
@pytest.mark.parametrize("kind", [DebiasedBatchNorm, CumulativeBatchNorm])
def test_after_one_step_the_population_is_the_batch_even_of_a_variance_of_a_millionth(
    batch, kind, momentum
):
    """The start value 1 of the variance would hide a millionth whose weight is only nearly 1."""
    layer, x = with_state(kind(momentum=momentum)), batch((50, 3))
    x = ((x - x.mean(0)) / x.std(0) * 1e-3 + [0.01, -0.02, 0.03]).astype("float32")
    layer(x, training=True)
    assert_remembered(layer, [x], rtol=1e-5)
    assert np.all(np.array(layer.moving_variance) < 1.01e-6)


@pytest.mark.parametrize("kind", [DebiasedBatchNorm, CumulativeBatchNorm])
def test_before_the_first_step_the_population_is_zero_and_one(batch, kind):
    layer, x = kind(), batch((4, 3))
    np.testing.assert_allclose(layer(x), x / np.sqrt(1 + 1e-3), rtol=1e-6)
    assert int(layer.updates) == 0


def test_a_frozen_layer_counts_no_update(batch, layer):
    layer.trainable = False
    before = [each.numpy() for each in layer.variables]
    layer(batch((6, 3)), training=True)
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_saved_layer_goes_on_counting_where_it_stopped(batch, layer, tmp_path):
    model = keras.Sequential([keras.Input((3,)), layer])
    batches = [batch((6, 3), seed) for seed in range(4)]
    for x in batches[:3]:
        model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    (again,) = loaded.layers
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert_remembered(again, batches[:3])
    np.testing.assert_array_equal(loaded(batches[3]), model(batches[3]))
    loaded(batches[3], training=True)
    assert_remembered(again, batches)


def test_the_gradient_is_that_of_the_base(batch, layer):
    base = with_state(BatchNorm(epsilon=0.02))
    x, dy = tf.constant(batch((6, 3))), tf.constant(batch((6, 3), 1))
    gradients = []
    for each in (layer, base):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = each(x, training=True)
        gradients.append(tape.gradient(y, [x, each.gamma.value, each.beta.value], dy))
    for actual, expected in zip(*gradients, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_count_of_updates_beyond_float16_is_exact_in_a_half_precision_layer(batch):
    layer = with_state(CumulativeBatchNorm(dtype="float16"))
    layer.updates.assign(2**24)
    layer(batch((6, 3)), training=True)
    assert int(layer.updates) == 2**24 + 1
    assert layer.moving_mean.dtype == "float32"
