"""Tests of bnref.functional: the moments, normalizing by them, and the closed-form gradient."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import BETA, GAMMA, central_differences
from hypothesis import given
from hypothesis import strategies as st

from bnref import functional

SHAPES = [(6, 3), (4, 5, 3), (3, 4, 2, 3), (2, 3, 2, 2, 3)]
GAMMA, BETA = np.float32(GAMMA), np.float32(BETA)
EPSILON = 1e-3
# The relative error of one rounding in float32.
ROUNDING = 2.0**-24


def vectors_for(dtype):
    """γ and β for inputs of this type."""
    return [each.astype("float64" if dtype == "float64" else "float32") for each in (GAMMA, BETA)]


def by_own_moments(x, gamma, beta):
    return functional.normalize(x, functional.moments(x), gamma, beta, epsilon=EPSILON)


def output_and_gradients(function, dy, *inputs):
    """The output, and the gradients of the sum of dy · output with respect to each input."""
    inputs = [tf.convert_to_tensor(each) for each in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    return y, *tape.gradient(y, inputs, tf.cast(dy, y.dtype))


def error_bounds(x):
    """Bounds on float32's errors in the mean and the variance of `x`, worst case.

    A sum of n numbers is off by n roundings of the sum of their magnitudes. A mean that is off by
    δ adds δ² to a two-pass variance, whose n + 4 further roundings are relative to itself. A
    one-pass variance is off by as many roundings of the squared mean instead.
    """
    rows = np.asarray(x, "float64").reshape(-1, x.shape[-1])
    n, (_, variance) = len(rows), reference.moments(rows)
    of_mean = (n + 1) * ROUNDING * np.mean(np.abs(rows), 0)
    return of_mean, of_mean**2 + (n + 4) * ROUNDING * (variance + of_mean**2)


def assert_within(actual, expected, bound):
    excess = np.abs(np.asarray(actual, "float64") - expected) - bound
    assert np.all(excess <= 0), f"exceeded by {np.max(excess)}"


@st.composite
def any_inputs(draw):
    """Float32 inputs of rank 2 to 5; each channel has a scale of its own, a mean of up to 10⁴ of
    its standard deviations, and may be constant."""
    axes = draw(st.lists(st.integers(1, 5), min_size=0, max_size=3))
    examples = draw(st.integers(1, 60 // len(axes) ** 2 if axes else 120))
    channels = draw(st.integers(1, 4))

    def each_channel(low, high):
        number = st.floats(low, high, width=32)
        return np.array(draw(st.lists(number, min_size=channels, max_size=channels)))

    scale = 10 ** each_channel(-3, 3)
    offset = scale * each_channel(-1, 1) * 10 ** each_channel(0, 4)
    constant = np.array(draw(st.lists(st.booleans(), min_size=channels, max_size=channels)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = random.normal(size=(examples, *axes, channels)) * np.where(constant, 0, scale) + offset
    x[np.abs(x) < 1e-30] = 0  # TensorFlow takes numbers below 1e-38 for 0
    return x.astype("float32")


@given(any_inputs())
def test_moments_are_those_of_the_reference_for_any_shape_scale_and_offset(x):
    mean, variance, count, *_ = functional.moments(tf.constant(x))
    of_mean, of_variance = error_bounds(x)
    expected_mean, expected_variance = reference.moments(x)
    assert_within(mean, expected_mean, of_mean)
    assert_within(variance, expected_variance, of_variance)
    assert mean.shape == variance.shape == (1, x.shape[-1])
    assert count.numpy().item() == x.size / x.shape[-1]


@given(any_inputs(), st.integers(0, 2**32 - 1))
def test_outputs_are_those_of_the_reference_for_any_shape_scale_and_offset(x, seed):
    gamma, beta = np.random.default_rng(seed).normal(size=(2, x.shape[-1])).astype("float32")
    y = by_own_moments(tf.constant(x), gamma, beta)
    (mean, variance), (of_mean, of_variance) = reference.moments(x), error_bounds(x)
    # x̂ moves with the mean's error over the deviation, and by half the variance's relative error
    # (as long as that is small: never less than ε is under the root). Then some eight roundings,
    # of x̂ and of the sum with β.
    deviation = np.sqrt(np.maximum(variance - of_variance, 0) + EPSILON)
    x_hat = np.abs(x - mean) / deviation
    bound = np.abs(gamma) * (of_mean / deviation + x_hat * of_variance / deviation**2)
    bound = bound + 8 * ROUNDING * (np.abs(gamma) * x_hat + np.abs(beta))
    assert_within(y, reference.batch_norm(x, gamma, beta, epsilon=EPSILON), bound)
    assert y.shape == x.shape and y.dtype == tf.float32


@pytest.mark.parametrize("shape", [(1, 3), (7, 3), (2, 4, 4, 3)])
def test_a_constant_channel_has_variance_zero_and_comes_out_as_beta(shape):
    x = tf.constant(np.full(shape, [-2.0, 0.1, 300.0], "float32"))
    mean, variance, *_ = functional.moments(x)
    # A sum of 0.1 in float32 is rounded; sums of whole numbers are not.
    assert_within(mean, [-2.0, np.float32(0.1), 300.0], [0, 1e-7, 0])
    assert_within(variance, 0, 1e-14)
    assert_within(by_own_moments(x, GAMMA, BETA), np.broadcast_to(BETA, shape), 2e-6)


def test_a_batch_of_one_comes_out_as_beta_and_sends_no_gradient_back(batch):
    y, dx, dgamma, dbeta = output_and_gradients(
        by_own_moments, batch((1, 3), 1), batch((1, 3)), GAMMA, BETA
    )
    np.testing.assert_array_equal(y, [BETA])
    np.testing.assert_array_equal(dx, np.zeros((1, 3)))
    np.testing.assert_array_equal(dgamma, np.zeros(3))
    np.testing.assert_array_equal(dbeta, batch((1, 3), 1)[0])


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("float64", 1e-13)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_the_paper(batch, shape, dtype, tolerance):
    x, dy = batch(shape, dtype=dtype), batch(shape, 1, dtype=dtype)
    gamma, beta = GAMMA.astype(dtype), BETA.astype(dtype)
    _, *actual = output_and_gradients(by_own_moments, dy, x, gamma, beta)
    expected = reference.batch_norm_gradient(dy, x, gamma, epsilon=EPSILON)
    # dx is a small difference: its errors are relative to what is subtracted, of the size of dy.
    largest = np.max(np.abs(dy), tuple(range(len(shape) - 1)))
    scale = np.abs(gamma) * largest / np.sqrt(reference.moments(x)[1] + EPSILON)
    assert_within(actual[0], expected[0], 4 * tolerance * scale)
    for each, wanted in zip(actual[1:], expected[1:], strict=True):
        assert_within(each, wanted, x.size / 3 * tolerance * largest)
    assert [each.dtype for each in actual] == [tf.as_dtype(dtype)] * 3


def test_the_gradient_is_that_of_central_differences_in_float64(batch):
    dy = batch((5, 3), 1, dtype="float64")
    inputs = [each.astype("float64") for each in (batch((5, 3)), GAMMA, BETA)]
    _, *actual = output_and_gradients(by_own_moments, dy, *inputs)

    def loss():
        return float(tf.reduce_sum(dy * by_own_moments(*map(tf.constant, inputs))))

    for values, gradient in zip(inputs, actual, strict=True):
        differences = central_differences(loss, values)
        np.testing.assert_allclose(gradient, differences, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("epsilon", [1e-12, 1e-3, 10.0])
def test_the_gradient_has_no_part_along_one_and_along_x_hat_only_epsilons_share(batch, epsilon):
    """Adding a constant to a channel changes no output, so Σ dx = 0. Stretching it by 1 + t moves
    x̂ by t·x̂·ε/(σ²+ε), which is nothing for ε → 0: Σ dx·x̂ = γ/√(σ²+ε) · ε/(σ²+ε) · Σ dy·x̂."""
    x, dy = batch((9, 4, 3), dtype="float64"), batch((9, 4, 3), 1, dtype="float64")
    mean, variance = reference.moments(x)
    x_hat = (x - mean) / np.sqrt(variance + epsilon)
    gamma, beta = GAMMA.astype("float64"), BETA.astype("float64")

    def by_this_epsilon(x):
        return functional.normalize(x, functional.moments(x), gamma, beta, epsilon=epsilon)

    _, dx = output_and_gradients(by_this_epsilon, dy, x)
    left = gamma / np.sqrt(variance + epsilon) * epsilon / (variance + epsilon)
    np.testing.assert_allclose(np.sum(dx, (0, 1)), 0, atol=1e-12)
    np.testing.assert_allclose(
        np.sum(dx * x_hat, (0, 1)), left * np.sum(dy * x_hat, (0, 1)), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-13)])
def test_moments_without_an_average_are_constants_to_the_gradient(batch, dtype, tolerance):
    x, dy = batch((8, 3), dtype=dtype), batch((8, 3), 1, dtype=dtype)
    gamma, beta = GAMMA.astype(dtype), BETA.astype(dtype)

    def by_constant_moments(x, gamma, beta):
        constant = functional.moments(x)._replace(average=None)
        return functional.normalize(x, constant, gamma, beta, epsilon=EPSILON)

    y, dx, dgamma, dbeta = output_and_gradients(by_constant_moments, dy, x, gamma, beta)
    mean, variance = reference.moments(x)
    inverse = 1 / np.sqrt(variance + EPSILON)
    options = {"rtol": tolerance, "atol": 10 * tolerance}
    np.testing.assert_allclose(y, reference.batch_norm(x, gamma, beta, epsilon=EPSILON), **options)
    np.testing.assert_allclose(dx, dy * gamma * inverse, **options)
    np.testing.assert_allclose(dgamma, np.sum(dy * (x - mean) * inverse, 0), **options)
    np.testing.assert_allclose(dbeta, np.sum(dy, 0), **options)


@pytest.mark.parametrize("average", [None, lambda total: total / 8])
def test_no_gradient_reaches_the_moments_themselves(batch, average):
    x = tf.constant(batch((8, 3)))
    mean, variance = tf.constant([[1.0, -3.0, 0.5]]), tf.constant([[0.5, 9.0, 30.0]])

    def by_given_moments(mean, variance):
        given_moments = functional.Moments(mean, variance, tf.constant([[8.0]]), average)
        return functional.normalize(x, given_moments, GAMMA, BETA, epsilon=EPSILON)

    _, *reached = output_and_gradients(by_given_moments, x, mean, variance)
    assert reached == [None, None]


def test_an_average_over_two_replicas_gives_the_gradient_of_their_global_batch(batch):
    """Replicas of unequal size, each normalized by the moments of both. Each replica's average sums
    over both what the other one has at the same place, as a sum over devices does."""
    x, dy, sizes = batch((10, 3), dtype="float64"), batch((10, 3), 1, dtype="float64"), [7, 3]
    gamma, beta = GAMMA.astype("float64"), BETA.astype("float64")
    mean, variance = (tf.constant(each[None]) for each in reference.moments(x))

    def on_each_replica(average_of):
        results = []
        for index, (own_x, own_dy) in enumerate(
            zip(np.split(x, sizes[:1]), np.split(dy, sizes[:1]), strict=True)
        ):
            shared = functional.Moments(mean, variance, tf.constant([[10.0]]), average_of(index))
            results.append(
                output_and_gradients(
                    lambda *inputs, shared=shared: functional.normalize(
                        inputs[0], shared, *inputs[1:], epsilon=EPSILON
                    ),
                    own_dy, own_x, gamma, beta,
                )
            )  # fmt: skip
        return results

    totals = [[], []]

    def record(index):
        def average(total):
            totals[index].append(total)
            return total

        return average

    def sum_over_both(index):
        others = iter(totals[1 - index])
        return lambda total: (total + next(others)) / 10

    on_each_replica(record)
    (y1, dx1, *first), (y2, dx2, *second) = on_each_replica(sum_over_both)
    dx, dgamma, dbeta = reference.batch_norm_gradient(dy, x, gamma, epsilon=EPSILON)
    np.testing.assert_allclose(
        np.concatenate([y1, y2]), reference.batch_norm(x, gamma, beta, epsilon=EPSILON)
    )
    np.testing.assert_allclose(np.concatenate([dx1, dx2]), dx, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(first[0] + second[0], dgamma)
    np.testing.assert_allclose(first[1] + second[1], dbeta)


@pytest.mark.parametrize("dtype, digits", [("float16", 11), ("bfloat16", 8)])
@pytest.mark.parametrize("shape", [(64, 3), (4, 4, 4, 3)])
def test_half_precision_inputs_have_float32_statistics_and_outputs_of_their_own_type(
    batch, shape, dtype, digits
):
    # Sums of 64 values near 3000, and their squares, are beyond float16's 65504.
    x = tf.cast(batch(shape) * 3 + [0.0, 0.0, 3000.0], dtype)
    dy = tf.cast(batch(shape, 1), dtype)
    exact, exact_dy = (np.array(tf.cast(each, tf.float64)) for each in (x, dy))
    mean, variance, *_ = functional.moments(x)
    assert mean.dtype == variance.dtype == tf.float32
    for actual, expected, bound in zip(
        (mean, variance), reference.moments(exact), error_bounds(exact), strict=True
    ):
        assert_within(actual, expected, bound)

    y, dx, dgamma, dbeta = output_and_gradients(by_own_moments, dy, x, GAMMA, BETA)
    assert [each.dtype for each in (y, dx, dgamma, dbeta)] == [dtype, dtype, "float32", "float32"]
    expected_y = reference.batch_norm(exact, GAMMA, BETA, epsilon=EPSILON)
    expected = reference.batch_norm_gradient(exact_dy, exact, GAMMA, epsilon=EPSILON)
    rounding = 2.0**-digits
    assert_within(tf.cast(y, tf.float64), expected_y, rounding * np.abs(expected_y) + 1e-4)
    # dx is a difference of two rounded numbers, each at most of the size of dy's largest.
    axes = tuple(range(len(shape) - 1))
    scale = np.abs(GAMMA) * np.max(np.abs(exact_dy), axes) / np.sqrt(variance + EPSILON)
    assert_within(tf.cast(dx, tf.float64), expected[0], 4 * rounding * scale)
    np.testing.assert_allclose(dgamma, expected[1], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(dbeta, expected[2], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(16, 3), (4, 2, 2, 3)])
def test_compiling_changes_neither_output_nor_gradient(batch, shape, dtype):
    x, dy = batch(shape, dtype=dtype), batch(shape, 1, dtype=dtype)
    vectors = [
        each.astype("float64" if dtype == "float64" else "float32") for each in (GAMMA, BETA)
    ]

    def step(x, gamma, beta):
        return output_and_gradients(by_own_moments, dy, x, gamma, beta)

    compiled = tf.function(step, jit_compile=True)(x, *vectors)
    tolerance = {"float16": 4e-3, "float32": 2e-5, "float64": 1e-12}[dtype]
    for actual, expected in zip(compiled, step(x, *vectors), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=10 * tolerance)


def test_compiling_keeps_the_digits_of_a_mean_of_ten_thousand_deviations(batch):
    x = (batch((50, 3)) / [0.5, 1.5, 4.5] + [1e4, -1e4, 3e3]).astype("float32")
    y = tf.function(by_own_moments, jit_compile=True)(x, GAMMA, BETA)
    of_mean, of_variance = error_bounds(x)
    expected = reference.batch_norm(x, GAMMA, BETA, epsilon=EPSILON)
    assert_within(y, expected, np.abs(GAMMA) * (of_mean + 4 * of_variance) * 1.5 + 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_of_full_size_but_x_is_kept_for_the_backward_pass(shape, dtype):
    """In a graph, what is kept is what the backward pass, a call of its own, takes from the forward
    pass; every full-sized part of it must be the forward pass's input x, passed through."""
    vectors = [
        each.astype("float64" if dtype == "float64" else "float32") for each in (GAMMA, BETA)
    ]
    forward = tf.function(by_own_moments)

    @tf.function
    def step(x, dy):
        return output_and_gradients(forward, dy, x, *vectors)

    graph = step.get_concrete_function(*(tf.TensorSpec(shape, dtype),) * 2).graph
    first, second = (each for each in graph.get_operations() if "PartitionedCall" in each.type)
    (x,) = (each for each in graph.inputs if each.name.startswith("x"))
    library = {each.signature.name: each for each in graph.as_graph_def().library.function}
    function = library[first.get_attr("f").name]
    argument = function.signature.input_arg[first.inputs.index(x)].name
    kept = [
        function.ret[function.signature.output_arg[tensor.value_index].name]
        for tensor in second.inputs
        if tensor.op is first and tensor.shape.num_elements() == np.prod(shape)
    ]
    assert kept, "the backward pass needs x"
    assert {_origin(name, function) for name in kept} == {argument}


def _origin(name, function):
    """Where a tensor of a function comes from, before nodes that pass on what they are given."""
    nodes = {each.name: each for each in function.node_def}
    if ":" not in name:
        return name  # an argument of the function
    node, _, index = name.split(":")
    if nodes[node].op in ("Identity", "IdentityN", "Reshape"):
        return _origin(nodes[node].input[int(index)], function)
    return name


@pytest.mark.parametrize(
    "x, message",
    [
        (np.ones((2, 3), "int32"), "x must be floating point; received int32"),
        (np.ones(3, "float32"), r"x must have shape \(N, ..., C\), two .* received \(3,\)"),
        (np.ones((0, 3), "float32"), r"x must hold at least one example; received shape \(0, 3\)"),
        (np.ones((2, 0, 3), "float32"), r"x must hold at least one example; received"),
    ],
    ids=["integer", "rank 1", "empty batch", "no position"],
)
def test_inputs_without_moments_are_refused_by_name(x, message):
    with pytest.raises(ValueError, match=message):
        functional.moments(tf.constant(x))


def test_an_unknown_rank_is_refused_by_name():
    with pytest.raises(ValueError, match="x must have shape .* received <unknown>"):
        tf.function(functional.moments).get_concrete_function(tf.TensorSpec(None))


@pytest.mark.parametrize("shape", SHAPES)
def test_one_graph_serves_batches_of_any_size(batch, shape):
    @tf.function(input_signature=[tf.TensorSpec((None, *[None] * (len(shape) - 2), 3))] * 2)
    def step(x, dy):
        return output_and_gradients(by_own_moments, dy, x, tf.constant(GAMMA), tf.constant(BETA))

    for examples in (1, 2, 5):
        x, dy = batch((examples, *shape[1:])), batch((examples, *shape[1:]), 1)
        y, *actual = step(x, dy)
        expected_y = reference.batch_norm(x, GAMMA, BETA, epsilon=EPSILON)
        expected = reference.batch_norm_gradient(dy, x, GAMMA, epsilon=EPSILON)
        for each, wanted in zip((y, *actual), (expected_y, *expected), strict=True):
            np.testing.assert_allclose(each, wanted, rtol=2e-4, atol=2e-4)


def test_an_array_gives_what_a_tensor_gives(batch):
    x = batch((6, 3))
    for actual, expected in zip(
        functional.moments(x)[:3], functional.moments(tf.constant(x))[:3], strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(
        by_own_moments(x, GAMMA, BETA), by_own_moments(tf.constant(x), GAMMA, BETA)
    )
