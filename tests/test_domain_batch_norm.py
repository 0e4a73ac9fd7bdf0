"""Tests of bnref.DomainBatchNorm: one batch norm a domain, in batches that mix the domains."""

import re

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BOTH,
    CLOSE,
    EPSILON,
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

from bnref import BatchNorm, DomainBatchNorm

# Unequal parts, mixed, of which the second batch holds none of domain 1 and the third 2 alone.
DOMAINS = [
    np.array(each, "int32")
    for each in ([0, 2, 1, 1, 0, 1, 1, 2], [2, 2, 0, 2, 0, 2, 2, 2], [2, 2, 2, 2, 2, 2, 2, 2])
]


def layer_of(domains=3, **options):
    return with_state(DomainBatchNorm(domains=domains, momentum=0.6, epsilon=EPSILON, **options))


def domain_batch(shape, domain, seed=0, dtype="float32"):
    """The domains have means and scales of their own."""
    own = np.asarray(domain).reshape(-1, *[1] * (len(shape) - 1))
    return (batch_of(shape, seed, "float64") * (1 + own) + 20 * own).astype(dtype)


@pytest.mark.parametrize("shape", [(8, 3), (8, 2, 2, 3)])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_output_and_every_row_after_k_steps_are_those_of_the_domains_by_themselves(shape, steps):
    layer = layer_of()
    gamma, beta, *start = (np.array(each) for each in layer.weights)
    domains = [DOMAINS[seed % 3] for seed in range(steps)]
    batches = [domain_batch(shape, domain, seed) for seed, domain in enumerate(domains)]
    for x, domain in zip(batches, domains, strict=True):
        y = layer(x, training=True, domain=domain)
        expected = reference.domain_batch_norm(x, domain, gamma, beta, epsilon=EPSILON)
        np.testing.assert_allclose(y, expected, **CLOSE)
    mean, variance = reference.domain_population(start, batches, domains, momentum=0.6)
    assert_state(layer, {"moving_mean": mean, "moving_variance": variance})


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_the_gradient_is_that_of_each_domain_and_zero_for_one_that_is_not_there(batch, domain):
    layer, x, dy = layer_of(), domain_batch((8, 2, 3), domain), batch((8, 2, 3), 1)
    _, *actual = output_and_gradients(layer, x, dy, domain=domain)
    gamma = np.array(layer.gamma, "float64")
    expected = reference.domain_gradient(dy, x, domain, gamma, epsilon=EPSILON)
    assert_all_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_domain_that_is_not_in_the_batch_keeps_its_row_exactly():
    layer, domain = layer_of(), DOMAINS[1]
    before = state(layer)
    layer(domain_batch((8, 3), domain), training=True, domain=domain)
    for name, value in state(layer).items():
        np.testing.assert_array_equal(value[1], before[name][1], err_msg=name)
        if name.startswith("moving"):
            assert np.all(value[[0, 2]] != before[name][[0, 2]])


@BOTH
def test_nan_in_one_domain_reaches_nothing_of_the_others(batch, training):
    clean, poisoned, domain = layer_of(), layer_of(), DOMAINS[0]
    x, dy = domain_batch((8, 2, 3), domain), batch((8, 2, 3), 1)
    bad = np.where((domain == 1)[:, None, None], np.float32(np.nan), x)
    actual = output_and_gradients(poisoned, bad, dy, training, domain=domain)
    expected = output_and_gradients(clean, x, dy, training, domain=domain)
    others = domain != 1
    for each, wanted in zip(actual[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(np.array(each)[others], np.array(wanted)[others])
    for name in ("moving_mean", "moving_variance"):
        rows = (np.array(getattr(layer, name)) for layer in (poisoned, clean))
        actual_rows, wanted_rows = rows
        np.testing.assert_array_equal(actual_rows[[0, 2]], wanted_rows[[0, 2]])
        assert np.isnan(actual_rows[1]).all() == training
    for each, wanted in zip(actual[2:], expected[2:], strict=True):
        np.testing.assert_array_equal(np.array(each)[[0, 2]], np.array(wanted)[[0, 2]])


def test_nan_in_the_population_of_one_domain_reaches_no_other_at_inference(batch):
    clean, poisoned, domain, x = layer_of(), layer_of(), DOMAINS[0], batch((8, 3))
    mean = np.array(poisoned.moving_mean)
    mean[1] = np.nan
    poisoned.moving_mean.assign(mean)
    actual, expected = poisoned(x, domain=domain).numpy(), clean(x, domain=domain).numpy()
    np.testing.assert_array_equal(actual[domain != 1], expected[domain != 1])
    assert np.isnan(actual[domain == 1]).all()


def test_at_inference_each_example_is_normalized_by_the_population_of_its_domain(batch):
    layer, x, domain = layer_of(), batch((8, 2, 3)), DOMAINS[0]
    gamma, beta, mean, variance = (np.array(each)[domain][:, None] for each in layer.weights)
    expected = reference.normalized_by(mean, variance, x, gamma, beta, epsilon=EPSILON)
    np.testing.assert_allclose(layer(x, domain=domain), expected, **CLOSE)


def test_the_variance_keeps_its_digits_at_a_mean_of_ten_thousand_deviations():
    domain = DOMAINS[0]
    x = (np.random.default_rng(0).normal(size=(8, 50, 3)) + [1e4, -1e4, 3e3]).astype("float32")
    layer = layer_of()
    gamma, beta, *start = (np.array(each) for each in layer.weights)
    y = layer(x, training=True, domain=domain)
    expected = reference.domain_batch_norm(x, domain, gamma, beta, epsilon=EPSILON)
    np.testing.assert_allclose(y, expected, atol=2e-2)
    _, variance = reference.domain_population(start, [x], [domain], momentum=0.6)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-3)


@BOTH
def test_one_domain_is_batch_norm(batch, training):
    x, dy = batch((6, 4, 3)), batch((6, 4, 3), 1)
    layer, base = layer_of(1), with_state(BatchNorm(momentum=0.6, epsilon=EPSILON))
    actual = output_and_gradients(layer, x, dy, training, domain=np.zeros(6, "int64"))
    expected = output_and_gradients(base, x, dy, training)
    assert_all_close([np.reshape(a, np.shape(e)) for a, e in zip(actual, expected, strict=True)],
                     expected, rtol=1e-4, atol=1e-4)  # fmt: skip
    for each, wanted in zip(layer.weights, base.weights, strict=True):
        np.testing.assert_allclose(np.array(each)[0], wanted, rtol=1e-5)


@pytest.mark.slow
@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.permutations(range(3)))
def test_other_names_for_the_domains_permute_the_rows_of_the_state(domain, names):
    domain, names = np.array(domain), np.array(names)
    x, dy = domain_batch((len(domain), 2, 3), domain), batch_of((len(domain), 2, 3), 1)
    layer, renamed = layer_of(), layer_of()
    for each, own in zip(renamed.weights, layer.weights, strict=True):
        each.assign(np.array(own)[np.argsort(names)])
    y, dx, *rows = output_and_gradients(layer, x, dy, domain=domain)
    actual = output_and_gradients(renamed, x, dy, domain=names[domain])
    assert_all_close(actual[:2], [y, dx], rtol=1e-6, atol=1e-6)
    for each, own in zip(
        [*actual[2:], *renamed.weights], [*rows, *layer.weights], strict=True
    ):  # fmt: skip
        np.testing.assert_allclose(np.array(each)[names], own, rtol=1e-6, atol=1e-6)


def test_a_model_takes_the_domain_as_an_input_and_learns_a_row_a_domain(batch):
    inputs = keras.Input((3,)), keras.Input((), dtype="int32")
    layer = layer_of()
    model = keras.Model(inputs, layer(inputs[0], domain=inputs[1]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before, x, domain = state(layer), batch((8, 3)), DOMAINS[1]
    model.fit([x, domain], batch((8, 3), 1), batch_size=8, verbose=0)
    for name, value in state(layer).items():
        np.testing.assert_array_equal(value[1], before[name][1], err_msg=name)
        assert np.all(value[[0, 2]] != before[name][[0, 2]]), name


@pytest.mark.parametrize("domains", [0, -1, 1.5, True, "2", None])
def test_a_number_of_domains_that_is_no_whole_number_above_zero_is_refused_by_name(domains):
    message = f"domains must be a whole number, at least 1; received {re.escape(repr(domains))}"
    with pytest.raises(ValueError, match=message):
        DomainBatchNorm(domains=domains)


@BOTH
@pytest.mark.parametrize(
    "domain, message",
    [
        (None, "domain must be given, one whole number an example; received None"),
        (np.zeros(8), r"domain must be whole numbers of shape \(8,\), .* received float32 of"),
        (np.full(8, True), "domain must be whole numbers .* received bool of"),
        (np.zeros(7, "int32"), r"domain must be whole numbers .* received int32 of shape \(7,\)"),
        (np.zeros((8, 1), "int32"), r"domain must be .* received int32 of shape \(8, 1\)"),
        (np.array(1), r"domain must be whole numbers .* received int64 of shape \(\)"),
    ],
    ids=["missing", "float", "boolean", "short", "rank 2", "scalar"],
)
def test_a_domain_that_is_missing_or_of_another_shape_or_type_is_refused_by_name(
    batch, domain, message, training
):
    layer = layer_of()
    before = state(layer)
    with pytest.raises(ValueError, match=message):
        layer(batch((8, 3)), training=training, domain=domain)
    assert_same_state(layer, before)


@BOTH
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("index", [3, -1])
def test_a_domain_out_of_range_is_refused_with_the_range_and_moves_nothing(
    batch, index, graph, training
):
    layer = layer_of()
    before = state(layer)

    def step(x, domain):
        return layer(x, training=training, domain=domain)

    run = tf.function(step) if graph else step
    domain = tf.constant([0, 1, 2, 0, 1, 2, 0, index])
    with pytest.raises(tf.errors.InvalidArgumentError, match="domain must lie in 0 .* 2; received"):
        run(tf.constant(batch((8, 3))), domain)
    assert_same_state(layer, before)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint32", "int64"])
@BOTH
def test_a_domain_may_be_of_any_integer_type(batch, dtype, training):
    x, domain = batch((8, 3)), DOMAINS[0]
    expected = layer_of()(x, domain=domain, training=training)
    actual = layer_of()(x, domain=domain.astype(dtype), training=training)
    np.testing.assert_array_equal(actual, expected)


@BOTH
@pytest.mark.parametrize("length", [1, 3, 5])
def test_a_domain_whose_length_only_a_run_can_tell_is_refused_by_name(batch, length, training):
    layer = layer_of()
    before = state(layer)
    step = tf.function(
        lambda x, domain: layer(x, training=training, domain=domain),
        input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((None,), tf.int32)],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="domain must hold one"):
        step(batch((4, 3)), np.zeros(length, "int32"))
    assert_same_state(layer, before)
