"""Tests of the moments of parts, examples, domains and masks, and of normalizing by them."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
    EPSILON,
    GAMMA,
    assert_all_close,
)
from layers_under_test import some_steps

from bnref import functional
from bnref.functional._inputs import over_positions
from bnref.functional._rows import Index
from bnref.functional._selected_moments import rows_of_domains

GAMMA, BETA = np.float32(GAMMA), np.float32(BETA)
DOMAIN = np.array([2, 0, 2, 2, 0, 2])


def far(shape):
    """Means of ten thousand deviations, which the one-pass form of the variance loses."""
    x = np.random.default_rng(0).normal(size=shape) * [1.0, 0.1, 10.0] + [1e4, -1e3, 1e5]
    return x.astype("float32")


def with_gradient(x, dy, moments_of, **replaced):
    x, gamma, beta = (tf.constant(each) for each in (x, GAMMA, BETA))
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        moments = moments_of(x)._replace(**replaced)
        y = functional.normalize(x, moments, gamma, beta, epsilon=EPSILON)
    return [y, *tape.gradient(y, [x, gamma, beta], tf.cast(dy, y.dtype))]


MOMENTS_OF = {
    "all": (functional.moments, lambda x: [x]),
    "parts": (lambda x: functional.moments_of_groups(x, 3), lambda x: np.split(x, 3)),
    "examples": (functional.moments_of_examples, list),
    "domains": (
        lambda x: functional.moments_of_domains(x, DOMAIN, 3),
        lambda x: [x[DOMAIN == 0], None, x[DOMAIN == 2]],
    ),
    "masked": (
        lambda x: functional.masked_moments(x, some_steps((6, 50))),
        lambda x: [x[some_steps((6, 50))]],
    ),
}


@pytest.mark.parametrize("name", MOMENTS_OF)
@pytest.mark.parametrize("make", ["near", "far"])
def test_moments_and_counts_are_those_of_each_part_with_their_digits(batch, name, make):
    of, parts = MOMENTS_OF[name]
    x = batch((6, 50, 3)) if make == "near" else far((6, 50, 3))
    mean, variance, count, *_ = of(tf.constant(x))
    kept = parts(x)
    wanted = [(np.zeros(3), np.zeros(3)) if p is None else reference.moments(p) for p in kept]
    shape = (len(kept), 3)
    assert mean.shape == variance.shape == shape
    wanted_mean, wanted_variance = (np.reshape(each, shape) for each in zip(*wanted, strict=True))
    np.testing.assert_allclose(mean, wanted_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, wanted_variance, rtol=2e-3, atol=1e-6)
    counts = [0 if part is None else part.size // 3 for part in kept]
    np.testing.assert_array_equal(np.broadcast_to(np.ravel(count), len(counts)), counts)


@pytest.mark.parametrize("name", MOMENTS_OF)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_half_precision_is_summed_in_float32_and_float64_in_float64(batch, name, dtype):
    mean, variance, *_ = MOMENTS_OF[name][0](tf.cast(batch((6, 50, 3), dtype="float64"), dtype))
    assert mean.dtype == variance.dtype == ("float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize("name", ["all", "parts", "domains", "examples"])
def test_rows_of_any_kind_give_the_outputs_and_the_gradient_of_each_part(batch, name):
    of, parts = MOMENTS_OF[name]
    x, dy = batch((6, 50, 3)), batch((6, 50, 3), 1)
    y, dx, dgamma, dbeta = with_gradient(x, dy, of)
    results, totals = [], 0
    for part, part_dy in zip(parts(x), parts(dy), strict=True):
        if part is not None:
            gradient = reference.batch_norm_gradient(part_dy, part, GAMMA, epsilon=EPSILON)
            results.append((reference.batch_norm(part, GAMMA, BETA, epsilon=EPSILON), gradient[0]))
            totals = totals + np.array(gradient[1:])
    for actual, wanted in zip((y, dx), zip(*results, strict=True), strict=True):
        got = [part for part in parts(np.array(actual)) if part is not None]
        assert_all_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert_all_close([dgamma, dbeta], totals, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["all", "parts", "domains", "examples"])
def test_a_correction_scales_and_shifts_x_hat_and_lets_no_gradient_through(batch, name):
    of, parts = MOMENTS_OF[name]
    x, dy = batch((6, 4, 3)), batch((6, 4, 3), 1)
    rows = of(x).mean.shape
    size = int(np.prod(rows[:-1]))
    r = np.linspace(0.5, 1.5, 3 * size).reshape(rows).astype("float32")
    d = np.linspace(-1, 1, 3 * size).reshape(rows).astype("float32")
    sources = tf.constant(r), tf.constant(d)
    with tf.GradientTape() as tape:
        tape.watch(sources)
        moments = of(tf.constant(x))._replace(correction=sources)
        y = functional.normalize(tf.constant(x), moments, GAMMA, BETA, epsilon=EPSILON)
    assert list(tape.gradient(y, sources)) == [None, None]
    y, dx, *_ = with_gradient(x, dy, of, correction=(r, d))
    pairs = zip(
        parts(x), parts(dy), parts(np.array(y)), parts(np.array(dx)),
        np.reshape(r, (-1, 3)), np.reshape(d, (-1, 3)), strict=True,
    )  # fmt: skip
    for part, part_dy, part_y, part_dx, own_r, own_d in pairs:
        if part is None:
            continue
        expected = reference.batch_renorm(part, GAMMA, BETA, own_r, own_d, epsilon=EPSILON)
        np.testing.assert_allclose(part_y, expected, rtol=1e-4, atol=1e-4)
        gradient = reference.batch_renorm_gradient(
            part_dy, part, GAMMA, own_r, own_d, epsilon=EPSILON
        )
        np.testing.assert_allclose(part_dx, gradient[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_part_picks_the_row_each_example_is_normalized_by(batch, dtype):
    """By rows that are constants: population statistics of several domains."""
    kind = "float64" if dtype == "float64" else "float32"
    x, part = batch((5, 2, 3), dtype=dtype), np.array([1, 0, 1, 1, 0])
    mean, variance = batch((2, 3), 4, kind), np.array([[1, 2, 3], [0.5, 5, 50]], kind)
    gamma, beta = batch((2, 3), 5, kind), batch((2, 3), 6, kind)
    rows = functional.Moments(
        tf.constant(mean), tf.constant(variance), rows=Index(tf.constant(part), 2)
    )
    with tf.GradientTape() as tape:
        inputs = [tf.constant(each) for each in (x, gamma, beta)]
        tape.watch(inputs)
        y = functional.normalize(inputs[0], rows, *inputs[1:], epsilon=EPSILON)
    dy = batch((5, 2, 3), 1, dtype)
    dx, dgamma, dbeta = (
        tf.convert_to_tensor(each) for each in tape.gradient(y, inputs, tf.constant(dy))
    )
    assert y.dtype == dx.dtype == dtype and dgamma.dtype == dbeta.dtype == kind
    tolerance = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-12}[dtype]
    close = {"rtol": tolerance, "atol": tolerance}
    own = (each[part][:, None] for each in (mean, variance, gamma, beta))
    own_mean, own_variance, own_gamma, own_beta = own
    expected = reference.normalized_by(
        own_mean, own_variance, x, own_gamma, own_beta, epsilon=EPSILON
    )
    np.testing.assert_allclose(y, expected, **close)
    inverse = 1 / np.sqrt(own_variance + EPSILON)
    np.testing.assert_allclose(dx, dy * own_gamma * inverse, **close)
    x_hat = (np.float64(x) - own_mean) * inverse
    wanted = [[np.sum((dy * x_hat)[part == k], (0, 1)) for k in range(2)]]
    wanted += [[np.sum(np.float64(dy)[part == k], (0, 1)) for k in range(2)]]
    assert_all_close([dgamma, dbeta], wanted, **close)


def test_a_vector_is_its_own_mean_with_variance_zero(batch):
    x = batch((4, 3))
    mean, variance, count, _, rows, _ = functional.moments_of_examples(x)
    np.testing.assert_array_equal(mean, x)
    np.testing.assert_array_equal(variance, np.zeros((4, 3)))
    np.testing.assert_array_equal(rows.row, range(4))
    np.testing.assert_array_equal(count, np.ones((4, 1)))


@pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 4, 2)])
@pytest.mark.parametrize("known", [True, False])
def test_a_mask_is_spread_over_the_positions_it_does_not_name(batch, shape, known):
    x, mask = batch((6, 4, 2, 3)), np.random.default_rng(0).random(shape) < 0.5
    signature = [tf.TensorSpec((None,) * 3 + (3,)), tf.TensorSpec((None,) * len(shape), tf.bool)]
    spread = over_positions
    if not known:
        spread = tf.function(spread, input_signature=signature[::-1])
    expected = np.broadcast_to(mask.reshape(*shape, *[1] * (4 - len(shape))), (6, 4, 2, 1))
    np.testing.assert_array_equal(spread(mask, x), expected)


def test_what_is_not_read_may_be_nan_in_the_moments_of_a_mask(batch):
    x, mask = batch((6, 4, 3)), some_steps((6, 4))
    bad = np.where(mask[..., None], x, np.float32(np.nan))
    poisoned, clean = (functional.masked_moments(each, mask)[:3] for each in (bad, x))
    for actual, expected in zip(poisoned, clean, strict=True):
        np.testing.assert_array_equal(actual, expected)
        assert np.isfinite(actual).all()


@pytest.mark.parametrize("parts", [4, 5, 7])
@pytest.mark.parametrize("known", [True, False])
def test_parts_that_do_not_divide_the_batch_are_refused_by_name(batch, parts, known):
    function = lambda x: functional.moments_of_groups(x, parts)[:2]  # noqa: E731
    if not known:
        function = tf.function(function, input_signature=[tf.TensorSpec((None, 3))])
    error = ValueError if known else tf.errors.InvalidArgumentError
    with pytest.raises(error, match=f"groups must divide the batch; received groups={parts} for"):
        function(batch((6, 3)))


@pytest.mark.parametrize("index", [3, -1])
def test_a_domain_out_of_range_is_refused_with_the_range(batch, index):
    domain = np.array([0, 1, 2, 0, 1, index])
    for function in (
        lambda: rows_of_domains(domain, 3),
        lambda: functional.moments_of_domains(batch((6, 3)), domain, 3),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="domain must lie in 0 .* 2; rece"):
            function()


@pytest.mark.parametrize(
    "function",
    [
        functional.moments_of_examples,
        lambda x: functional.moments_of_groups(x, 2),
        lambda x: functional.moments_of_domains(x, [0, 1], 2),
        lambda x: functional.masked_moments(x, [True, False]),
    ],
    ids=["examples", "parts", "domains", "masked"],
)
def test_integers_and_vectors_without_channels_are_refused_by_name(function):
    with pytest.raises(ValueError, match="x must be floating point; received int32"):
        function(np.ones((2, 3), "int32"))
    with pytest.raises(ValueError, match=r"x must have shape \(N, ..., C\)|mask must have the sh"):
        function(np.ones(2, "float32"))


@pytest.mark.parametrize("count", [0, 1])
def test_a_mask_that_is_false_everywhere_is_refused_by_name(batch, count):
    mask = np.arange(6) < count
    if count:
        assert functional.masked_moments(batch((6, 3)), mask).count.numpy().item() == 1
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match="mask must be true for at least one"):
        functional.masked_moments(batch((6, 3)), mask)
