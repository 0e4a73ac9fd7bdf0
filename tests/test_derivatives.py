"""Derivatives of any order, in both modes, against plain operations in float64 and differences.

The oracle takes the mean and the variance by operations that stop no gradient; `tf.nn.moments`
stops one, and has the right first derivative and a wrong second one. Run as a script, this file is
the process in which replicas are differentiated.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    BETA,
    BOTH,
    EPSILON,
    GAMMA,
    MEAN,
    VARIANCE,
    batch_of,
    central_differences,
    local,
    result_in_new_process,
    strategy_of,
    with_state,
)
from layers_under_test import CASES

from bnref import devices, functional, layers

pytestmark = pytest.mark.slow
SHAPE = (6, 2, 3)
ROWS = ("BatchNorm", "GhostBatchNorm", "DomainBatchNorm")  # one for each way to share them out
DTYPES = pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-3)])


def relative(actual, expected):
    actual, expected = np.float64(actual), np.float64(expected)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def constants(dtype, seeds=(1, 2, 3)):
    """Weights of the loss and directions to differentiate along."""
    return [tf.constant(batch_of(SHAPE, seed) / 10, dtype) for seed in seeds]


# The formula, row by row, by plain operations.


def rows_of(name, extra):
    """For each row: which of the (N, positions) it normalizes."""
    every = np.ones(SHAPE[:2], bool)
    if name == "GhostBatchNorm":
        half = np.arange(SHAPE[0])[:, None] < SHAPE[0] // 2
        return [(0, every & half), (0, every & ~half)]
    if name == "DomainBatchNorm":
        return [(d, every & (extra["domain"] == d)[:, None]) for d in (0, 2)]
    return [(0, extra.get("mask", every))]


def by_plain_operations(name, layer, extra, training):
    """y of the case's layer as a function of x, γ and β."""
    mean, variance = (
        np.reshape(each, (-1, 3)) for each in (layer.moving_mean, layer.moving_variance)
    )

    def statistics(x, values, domain):
        use_batch = training and name != "FrozenBatchNorm" or name == "UntrackedBatchNorm"
        if use_batch:
            batch = tf.reduce_mean(values, 0)
            return batch, tf.reduce_mean((values - batch) ** 2, 0)
        if name == "ExampleWeighingBatchNorm":
            own = tf.reduce_mean(x, 1, keepdims=True)
            square = 0.3 * tf.reduce_mean(x**2, 1, keepdims=True)
            mixed = 0.3 * own + 0.7 * mean[domain]
            return mixed, square + 0.7 * (variance[domain] + mean[domain] ** 2) - mixed**2
        return mean[domain], variance[domain]

    def y(x, gamma, beta):
        total = tf.zeros_like(x)
        for domain, where in rows_of(name, extra):
            mu, var = statistics(x, tf.boolean_mask(x, where), domain)
            scale, shift = tf.reshape(gamma, (-1, 3))[domain], tf.reshape(beta, (-1, 3))[domain]
            r, d = 1, 0
            if training and name == "BatchRenorm":
                sigma = np.sqrt(variance[0] + EPSILON)
                r = tf.stop_gradient(tf.clip_by_value(tf.sqrt(var + EPSILON) / sigma, 1 / 1.5, 1.5))
                d = tf.stop_gradient(tf.clip_by_value((mu - mean[0]) / sigma, -0.5, 0.5))
            own = scale * ((x - mu) / tf.sqrt(var + EPSILON) * r + d) + shift
            total += own * where[..., None]
        return total

    return y


REVERSE = ("first", "second", "third")
MIXED = ("forward", "forward over reverse", "reverse over forward", "forward over forward")


def derivatives(f, x, dtype, kinds):
    """By name: derivatives of Σ w·tanh(f(x)), along directions."""
    w, u, v = constants(dtype)

    def loss(x):
        return tf.reduce_sum(w * tf.tanh(f(x)))

    def gradient(function, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)

    def along(function, direction):
        return lambda x: tf.reduce_sum(gradient(function, x) * direction)

    def forward(function, direction, x):
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            value = function(x)
        return accumulator.jvp(value)

    def tangent(x):
        return forward(lambda x: tf.tanh(f(x)), u, x)

    of = {
        "first": lambda: gradient(loss, x),
        "second": lambda: gradient(along(loss, u), x),
        "third": lambda: gradient(along(along(loss, u), v), x),
        "forward": lambda: tangent(x),
        "forward over reverse": lambda: forward(lambda x: gradient(loss, x), u, x),
        "reverse over forward": lambda: gradient(lambda x: tf.reduce_sum(w * tangent(x)), x),
        "forward over forward": lambda: forward(tangent, v, x),
    }
    return {kind: of[kind]() for kind in kinds}


@functools.cache
def expected_of(name, training, kinds):
    """What the plain operations give in float64."""
    case = CASES[name]
    layer, extra = case.make(dtype="float64"), case.extra(SHAPE)
    plain = by_plain_operations(name, layer, extra, training)
    gamma, beta = (tf.constant(each) for each in (layer.gamma.numpy(), layer.beta.numpy()))
    x = tf.constant(batch_of(SHAPE, dtype="float64"))
    found = derivatives(lambda x: plain(x, gamma, beta), x, "float64", kinds)
    return {name: value.numpy() for name, value in found.items()}


@BOTH
@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_every_order_are_those_of_the_formula(name, dtype, tolerance, training):
    case, x = CASES[name], tf.constant(batch_of(SHAPE, dtype="float64"))
    layer, extra = case.make(dtype=dtype), case.extra(SHAPE)
    if name == "BatchRenorm":  # r and d go by the population, which would move from call to call
        layer.update_population = lambda moments: None
    found = derivatives(
        lambda x: layer(x, training=training, **extra), tf.cast(x, dtype), dtype, REVERSE
    )
    assert_derivatives(found, expected_of(name, training, REVERSE), tolerance)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("name", ROWS)
def test_forward_mode_and_graphs_have_the_same_derivatives(name, mode):
    """By the kernels, which have another derivative of their own."""
    case, x = CASES[name], tf.constant(batch_of(SHAPE))
    layer, extra = case.make(), case.extra(SHAPE)
    kinds = MIXED if mode == "eager" else ("second", "forward over reverse")
    if name == "DomainBatchNorm":  # see test_forward_mode_twice_ends_where_rows_are_gathered
        kinds = tuple(kind for kind in kinds if kind != "forward over forward")

    def run(x):
        return derivatives(lambda x: layer(x, training=True, **extra), x, "float32", kinds)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "XLA")
    assert_derivatives(run(x), expected_of(name, True, kinds), 1e-3)


def test_forward_mode_twice_ends_where_rows_are_gathered():
    """TensorFlow's own limit, of sums by segments: an error, and no number."""
    case, x = CASES["DomainBatchNorm"], tf.constant(batch_of(SHAPE))
    layer, extra = case.make(), case.extra(SHAPE)
    with pytest.raises(AttributeError, match="IndexedSlices"):
        derivatives(
            lambda x: layer(x, training=True, **extra), x, "float32", ["forward over forward"]
        )


def test_forward_mode_has_the_digits_of_float64():
    layer, x = (
        CASES["BatchNorm"].make(dtype="float64"),
        tf.constant(batch_of(SHAPE, dtype="float64")),
    )
    found = derivatives(lambda x: layer(x, training=True), x, "float64", MIXED)
    assert_derivatives(found, expected_of("BatchNorm", True, MIXED), 1e-9)


def assert_derivatives(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for kind, value in found.items():
        error = relative(value, expected[kind])
        assert error < tolerance, f"{kind}: {error:.1e}"


def test_the_second_derivative_is_that_of_differences_of_the_first():
    layer = CASES["BatchNorm"].make(dtype="float64")
    x, (w, u, _) = batch_of(SHAPE, dtype="float64"), constants("float64")

    def slope():
        tensor = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            loss = tf.reduce_sum(w * tf.tanh(layer(tensor, training=True)))
        return float(tf.reduce_sum(tape.gradient(loss, tensor) * u))

    expected = expected_of("BatchNorm", True, REVERSE)["second"]
    np.testing.assert_allclose(central_differences(slope, x), expected, rtol=1e-5, atol=1e-8)


@DTYPES
@pytest.mark.parametrize("name", ["BatchNorm", "GhostBatchNorm", "DomainBatchNorm"])
def test_the_whole_hessian_is_symmetric_by_x_gamma_and_beta(name, dtype, tolerance):
    """Of all inputs at once, so that the mixed derivatives are seen as well."""
    case, x = CASES[name], tf.constant(batch_of(SHAPE), dtype)
    layer, extra = case.make(dtype=dtype), case.extra(SHAPE)
    plain = by_plain_operations(name, case.make(dtype="float64"), extra, True)

    def hessian(f, inputs):
        sizes, (w, *_) = [int(tf.size(each)) for each in inputs], constants(inputs[0].dtype)
        flat = tf.concat([tf.reshape(each, (-1,)) for each in inputs], 0)
        with tf.GradientTape() as outer:
            outer.watch(flat)
            parts = [
                tf.reshape(part, each.shape)
                for part, each in zip(tf.split(flat, sizes), inputs, strict=True)
            ]
            with tf.GradientTape() as inner:
                inner.watch(parts)
                loss = tf.reduce_sum(w * tf.tanh(f(*parts)))
            gradient = inner.gradient(loss, parts)
            gradient = tf.concat([tf.reshape(each, (-1,)) for each in gradient], 0)
        return outer.jacobian(gradient, flat).numpy()

    def own(x, gamma, beta):
        moments = layer.batch_moments(x, **extra)
        return functional.normalize(x, moments, gamma, beta, epsilon=EPSILON)

    inputs = [x, *(tf.constant(each.numpy()) for each in (layer.gamma, layer.beta))]
    found, wanted = hessian(own, inputs), hessian(plain, [tf.cast(i, "float64") for i in inputs])
    assert relative(found, wanted) < tolerance
    np.testing.assert_allclose(found, found.T, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("policy, tolerance", [("mixed_float16", 2e-2), ("mixed_bfloat16", 2e-1)])
@BOTH
def test_half_precision_has_the_second_derivative_to_its_digits(policy, tolerance, training):
    layer, (w, u, _) = CASES["BatchNorm"].make(dtype=policy), constants("float32")
    x = tf.cast(batch_of(SHAPE), policy.removeprefix("mixed_"))
    expected = derivatives(
        lambda x: CASES["BatchNorm"].make()(x, training=training),
        tf.cast(x, "float32"),
        "float32",
        ("second",),
    )["second"]
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.cast(layer(x, training=training), "float32")
            loss = tf.reduce_sum(w * tf.tanh(y))
        slope = tf.reduce_sum(tf.cast(inner.gradient(loss, x), "float32") * u)
    second = outer.gradient(slope, x)
    assert second.dtype == x.dtype
    assert relative(tf.cast(second, "float32"), expected) < tolerance


def test_a_gradient_penalty_of_two_convolutions_is_that_of_the_plain_formula():
    """Its gradient by the weights, which crosses both norms twice."""

    class Plain(keras.layers.Layer):
        def build(self, input_shape):
            self.gamma = self.add_weight(shape=input_shape[-1:], initializer="ones")
            self.beta = self.add_weight(shape=input_shape[-1:], initializer="zeros")

        def call(self, x):
            mean = tf.reduce_mean(x, (0, 1, 2))
            variance = tf.reduce_mean((x - mean) ** 2, (0, 1, 2))
            return (x - mean) / tf.sqrt(variance + 1e-3) * self.gamma + self.beta

    def penalty_gradient(norm, dtype):
        keras.utils.set_random_seed(1)
        keras.config.set_dtype_policy(dtype)
        parts = [keras.layers.Conv2D(4, 3), norm(), keras.layers.Activation("tanh")]
        parts += [keras.layers.Conv2D(6, 3), norm(), keras.layers.Activation("tanh")]
        critic = keras.Sequential([*parts, keras.layers.Flatten(), keras.layers.Dense(1)])
        x = tf.constant(np.random.default_rng(0).normal(size=(8, 8, 8, 2)), dtype)
        critic(x)
        random = np.random.default_rng(1)
        critic.trainable_variables[0].assign(random.normal(size=(3, 3, 2, 4)) / 3)
        critic.trainable_variables[4].assign(random.normal(size=(3, 3, 4, 6)) / 3)
        critic.trainable_variables[8].assign(random.normal(size=(96, 1)) / 3)
        weights = [each.value for each in critic.trainable_variables]
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                score = critic(x, training=True)
            slope = tf.reshape(inner.gradient(score, x), (8, -1))
            penalty = tf.reduce_mean((tf.norm(slope, axis=1) - 1) ** 2)
        found = [each for each in outer.gradient(penalty, weights) if each is not None]
        return np.concatenate([np.ravel(each) for each in found])

    expected = penalty_gradient(Plain, "float64")
    assert relative(penalty_gradient(layers.BatchNorm, "float64"), expected) < 1e-9
    assert relative(penalty_gradient(layers.BatchNorm, "float32"), expected) < 1e-4


def test_an_accumulator_around_a_traced_function_is_refused_or_right():
    """TensorFlow cannot differentiate a custom gradient's gradient so: no number is given."""
    layer, x = CASES["BatchNorm"].make(), tf.constant(batch_of(SHAPE))
    traced = tf.function(lambda x: layer(x, training=True))
    accumulator = tf.autodiff.ForwardAccumulator(x, tf.ones_like(x))
    with pytest.raises((TypeError, tf.errors.InternalError)), accumulator:
        traced(x)


def test_a_model_that_is_saved_and_served_is_differentiated_twice(tmp_path):
    """As an attack on a served model does: TensorFlow saves no custom gradient of a gradient."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), layers.BatchNorm()])
    with_state(model.layers[1])
    model.export(tmp_path / "served", verbose=False)
    loaded, x = tf.saved_model.load(tmp_path / "served"), tf.constant(batch_of((5, 4)))

    def second(function):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(tf.tanh(function(x)))
            slope = inner.gradient(loss, x)
        return slope, outer.gradient(slope, x)

    for found, wanted in zip(second(loaded.serve), second(model), strict=True):
        assert relative(found, wanted) < 1e-4


# Several replicas.


def replicated():
    """The second derivative of each replica's x, of a global loss, by several layers."""
    devices.configure(cpus=2)
    batches = [batch_of((4, 2, 3), dtype="float64"), batch_of((6, 2, 3), 5, "float64")]
    found = {}
    for name in ("SyncBatchNorm", "BatchNorm", "GhostBatchNorm"):
        strategy = strategy_of(2)
        with strategy.scope():
            layer = CASES[name].make(dtype="float64")

        def on_replica(layer=layer):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            x = tf.constant(batches[int(tf.get_static_value(replica))])
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    loss = tf.reduce_sum(tf.tanh(layer(x, training=True)) * x)
                slope = tf.reduce_sum(inner.gradient(loss, x) ** 2)
            return outer.gradient(slope, x)

        for mode, run in {"eager": strategy.run, "graph": tf.function(strategy.run)}.items():
            result = run(on_replica)
            found[name, mode] = [local(strategy, result, i) for i in range(2)]
    return batches, found


@pytest.fixture(scope="module")
def on_two():
    return result_in_new_process(replicated)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", ["SyncBatchNorm", "BatchNorm", "GhostBatchNorm"])
def test_on_two_replicas_the_second_derivative_is_that_of_the_global_loss(on_two, name, mode):
    batches, found = on_two
    gamma, beta = np.array(GAMMA), np.array(BETA)

    def normalized(values):
        mean = tf.reduce_mean(values, (0, 1))
        variance = tf.reduce_mean((values - mean) ** 2, (0, 1))
        return gamma * (values - mean) / tf.sqrt(variance + EPSILON) + beta

    def all_normalized(x):
        if name == "SyncBatchNorm":
            return normalized(x)
        sizes = [4, 6] if name == "BatchNorm" else [2, 2, 3, 3]
        return tf.concat([normalized(part) for part in tf.split(x, sizes)], 0)

    x = tf.constant(np.concatenate(batches))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = tf.reduce_sum(tf.tanh(all_normalized(x)) * x)
        slope = tf.reduce_sum(inner.gradient(loss, x) ** 2)
    expected = outer.gradient(slope, x)
    assert relative(np.concatenate(found[name, mode]), expected) < 1e-9


def test_population_statistics_are_constants_to_every_order():
    layer = with_state(layers.FrozenBatchNorm(epsilon=EPSILON, dtype="float64"))
    x = tf.constant(batch_of(SHAPE, dtype="float64"))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reduce_sum(layer(x, training=True) ** 2) / 2
        first = inner.gradient(y, x)
    second = outer.gradient(first, x)  # of a square of a line: the slope's square
    expected = np.array(GAMMA) ** 2 / (np.array(VARIANCE) + EPSILON)
    np.testing.assert_allclose(second, np.broadcast_to(expected, SHAPE), rtol=1e-12)
    slope = np.array(GAMMA) / np.sqrt(np.array(VARIANCE) + EPSILON)
    wanted = slope * (slope * (x.numpy() - np.array(MEAN)) + np.array(BETA))
    np.testing.assert_allclose(first, wanted, rtol=1e-9)
