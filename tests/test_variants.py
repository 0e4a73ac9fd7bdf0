"""What holds for every layer: gradients, shapes, precision, graphs, saving, replicas, refusals.

The layers and how they are called stand in layers_under_test.py; what is particular to one of them
is tested in the file of its name.
"""

import re

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
    BOTH,
    CLOSE,
    GAMMA,
    MEAN,
    VARIANCE,
    assert_all_close,
    assert_same_state,
    batch_of,
    central_differences,
    output_and_gradients,
    state,
)
from layers_under_test import CASES, Job, on_replicas

from bnref import layers

# What these layers do in training is what they do at inference, or the other way round.
ONE_BEHAVIOUR = {"FrozenBatchNorm", "UntrackedBatchNorm"}


# What is remembered, or used, is that of all replicas together.
def together(batches):
    return reference.moments(np.concatenate(batches))


def averaged(batches):
    return np.mean([reference.moments(x) for x in batches], 0)


GLOBAL = {
    "PooledBatchNorm": together, "ReplicaMeanBatchNorm": averaged, "SyncBatchNorm": together
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def replicated(every_layer_on_two_replicas):
    """What two replicas with unequal batches have after one step, by the name of the layer."""
    results = on_replicas(list(every_layer_on_two_replicas.values()))
    return dict(zip(CASES, results, strict=True))


@pytest.fixture(scope="module")
def every_layer_on_two_replicas():
    batches = [batch_of((4, 2, 3)), batch_of((6, 2, 3), 5)]
    gradients = [batch_of((4, 2, 3), 7), batch_of((6, 2, 3), 8)]
    return {
        name: Job((name,), case.options, batches, gradients, [case.extra(x.shape) for x in batches])
        for name, case in CASES.items()
    }


def test_every_layer_of_the_package_is_under_test():
    assert sorted(CASES) == sorted(layers.__all__)
    assert all(case.kind is getattr(layers, name) for name, case in CASES.items())


@pytest.mark.slow
@BOTH
def test_gradients_are_those_of_central_differences_of_the_layer_itself(batch, case, training):
    """In float64. Renormalization counts its r and d as constants, which differences do not: see
    test_batch_renorm for its training."""
    if training and case.kind is layers.BatchRenorm:
        case = case._replace(options={"r_max": 1, "d_max": 0})
    shape = (6, 2, 2)
    layer, extra = case.make(2, dtype="float64"), case.extra(shape)
    x, dy = batch(shape, dtype="float64"), batch(shape, 1, "float64")
    _, *actual = output_and_gradients(layer, x, dy, training, **extra)

    gamma, beta = (np.array(each) for each in (layer.gamma, layer.beta))

    def loss():
        layer.gamma.assign(gamma)
        layer.beta.assign(beta)
        return float(tf.reduce_sum(dy * layer(x, training=training, **extra)))

    expected = [central_differences(loss, each) for each in (x, gamma, beta)]
    assert_all_close(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("shape", [(6, 3), (6, 1, 4, 3), (6, 2, 2, 1, 3)])
def test_positions_on_several_axes_are_positions_on_one(batch, case, shape, training):
    """(N, 4, C) is what the other tests know; a vector is one position."""
    flat = (6, int(np.prod(shape[1:-1])), 3)
    x, dy = batch(shape), batch(shape, 1)
    # A mask of examples alone fits every rank.
    extra = case.extra((6, 3))
    several, one = case.make(), case.make()
    actual = output_and_gradients(several, x, dy, training, **extra)
    assert actual[0].shape == actual[1].shape == shape
    expected = output_and_gradients(one, x.reshape(flat), dy.reshape(flat), training, **extra)
    actual = [each if i > 1 else tf.reshape(each, flat) for i, each in enumerate(actual)]
    assert_all_close(actual, expected)
    assert_all_close(state(several).values(), state(one).values())


def test_a_saved_model_is_loaded_with_its_configuration_state_and_output(batch, case, tmp_path):
    shape = (6, 4, 3)
    extra = {name: tf.constant(value) for name, value in case.extra(shape).items()}
    inputs = {"x": keras.Input(shape[1:], name="x")}
    inputs |= {n: keras.Input(v.shape[1:], dtype=v.dtype, name=n) for n, v in extra.items()}
    layer = case.make(name="normalized")
    model = keras.Model(inputs, layer(inputs["x"], **{n: inputs[n] for n in extra}))
    model({"x": tf.constant(batch(shape)), **extra}, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = loaded.get_layer("normalized")
    assert type(again) is case.kind and again.get_config() == layer.get_config()
    for training in (False, True):
        assert_same_state(again, state(layer))
        x = {"x": tf.constant(batch(shape, 1)), **extra}
        np.testing.assert_array_equal(loaded(x, training=training), model(x, training=training))
    assert_same_state(again, state(layer))


def test_a_configuration_makes_an_equal_layer(case):
    layer = case.make(name="normalized", dtype="mixed_float16", trainable=False)
    config = layer.get_config()
    again = case.kind.from_config(config)
    assert again.get_config() == config
    assert (again.momentum, again.epsilon, again.name) == (0.6, 0.02, "normalized")
    assert again.dtype_policy.name == "mixed_float16" and again.trainable is False
    assert config.items() >= {**case.options, "momentum": 0.6, "epsilon": 0.02}.items() or (
        case.kind is layers.BatchRenorm  # its limits are written as schedules
    )


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("policy, digits", [("mixed_float16", 10), ("mixed_bfloat16", 7)])
def test_half_precision_rounds_the_output_and_nothing_else(batch, case, policy, digits, training):
    half, full = case.make(dtype=policy), case.make()
    # Float16 can hold neither the sum nor the squares of 64 values near 3000.
    x = batch((64, 3)) + [0.0, 0.0, 3000.0]
    extra, dtype = case.extra(x.shape), policy.removeprefix("mixed_")
    x = tf.cast(x, dtype)
    y = half(x, training=training, **extra)
    expected = full(tf.cast(x, "float32"), training=training, **extra)
    assert y.dtype == dtype
    assert {each.dtype for each in half.variables} <= {"float32", "int32"}
    np.testing.assert_allclose(tf.cast(y, "float32"), expected, rtol=2.0**-digits, atol=2e-4)
    assert_all_close(state(half).values(), state(full).values())


@BOTH
def test_a_float64_layer_is_float64_throughout(batch, case, training):
    """Float32 anywhere would be off by 1e-8; differences of float64's last digits are 1e-16."""
    shape = (6, 4, 3)
    exact, rounded = case.make(dtype="float64"), case.make()
    x, dy, extra = batch(shape, dtype="float64"), batch(shape, 1, "float64"), case.extra(shape)
    actual = output_and_gradients(exact, x, dy, training, **extra)
    assert {each.dtype for each in actual} == {tf.float64}
    assert {each.dtype for each in exact.variables} <= {"float64", "int32"}
    expected = output_and_gradients(rounded, x.astype("float32"), dy, training, **extra)
    assert_all_close(actual, expected, rtol=1e-4, atol=1e-4)
    # What was float32 on its way would be a number that float32 can hold.
    remembered = training and case.kind.__name__ not in ONE_BEHAVIOUR
    for each in actual[:3] + (exact.variables[2:4] if remembered else []):
        assert np.any(np.float32(each) != np.array(each))


@pytest.mark.slow
@BOTH
def test_graph_and_compiled_graph_of_any_batch_size_do_what_eager_execution_does(
    batch, case, training
):
    eager, graph, compiled = (case.make() for _ in range(3))
    extra = case.extra((4, 2, 3))
    signature = [tf.TensorSpec((None, *batch((4, 2, 3)).shape[1:]))] * 2 + [
        tf.TensorSpec((None, *value.shape[1:]), value.dtype) for value in extra.values()
    ]

    def step(layer):
        def function(x, dy, *values):
            named = dict(zip(extra, values, strict=True))
            return output_and_gradients(layer, x, dy, training, **named)

        return function

    runs = [
        step(eager),
        tf.function(step(graph), input_signature=signature),
        tf.function(step(compiled), input_signature=signature, jit_compile=True),
    ]
    for size in (4, 6):
        x, dy = tf.constant(batch((size, 2, 3), size)), tf.constant(batch((size, 2, 3), 1))
        values = [tf.constant(value) for value in case.extra(x.shape).values()]
        expected, *others = (run(x, dy, *values) for run in runs)
        for actual in others:
            assert_all_close(actual, expected, rtol=1e-4, atol=1e-4)
    for layer in (graph, compiled):
        assert_all_close(state(layer).values(), state(eager).values())


@pytest.mark.slow
def test_on_two_replicas_each_has_its_own_batch_and_state_or_the_global_one(
    case, replicated, every_layer_on_two_replicas
):
    name = case.kind.__name__
    job, (results, states) = every_layer_on_two_replicas[name], replicated[name]
    for i, (x, dy, extra) in enumerate(
        zip(job.batches, job.gradients, job.extra, strict=True)
    ):  # fmt: skip
        alone = case.make()
        expected = output_and_gradients(alone, x, dy, **extra)
        if name == "SyncBatchNorm":
            expected = reference.synchronized_gradient(
                job.gradients, job.batches, np.array(GAMMA), epsilon=0.02
            )[i]
            y = reference.synchronized(job.batches, GAMMA, BETA, epsilon=0.02)[i]
            expected = [y, *expected]
        assert_all_close(results[i], expected, rtol=1e-4, atol=1e-4)
        wanted = state(alone)
        if name in GLOBAL:
            batch = GLOBAL[name](job.batches)
            for variable, start, value in zip(
                ("moving_mean", "moving_variance"), (MEAN, VARIANCE), batch, strict=True
            ):
                wanted[variable] = 0.6 * np.array(start) + 0.4 * value
        assert states[i].keys() == wanted.keys()
        assert_all_close(states[i].values(), wanted.values())


def test_a_frozen_layer_trains_as_it_infers_and_moves_nothing(batch, case):
    layer, x = case.make(), batch((6, 4, 3))
    extra, before = case.extra(x.shape), state(layer)
    layer.trainable = False
    inferred = layer(x, training=False, **extra).numpy()
    np.testing.assert_array_equal(layer(x, training=True, **extra), inferred)
    assert_same_state(layer, before)
    assert layer.trainable_variables == []


def test_inference_moves_no_variable_and_no_later_call(batch, case):
    layer, x = case.make(), batch((6, 4, 3))
    extra, before, y = case.extra(x.shape), state(layer), layer(x, **case.extra(x.shape))
    layer(np.full(x.shape, np.nan, "float32"), **extra)
    assert_same_state(layer, before)
    np.testing.assert_array_equal(layer(x, **extra), y)


def test_training_moves_the_population_unless_the_layer_says_it_does_not(batch, case):
    layer, x = case.make(), batch((6, 4, 3))
    before = state(layer)
    layer(x, training=True, **case.extra(x.shape))
    moved = {n for n, value in state(layer).items() if not np.array_equal(value, before[n])}
    remembered = {n for n in before if n not in ("gamma", "beta")}
    assert moved == (set() if case.kind.__name__ in ONE_BEHAVIOUR else remembered)


@BOTH
def test_inputs_of_another_number_of_channels_than_before_are_refused(batch, case, training):
    layer, x = case.make(), batch((6, 5))
    before = state(layer)
    with pytest.raises(ValueError, match=r"expected axis -1 .* to have value 3.*\(6, 5\)"):
        layer(x, training=training, **case.extra(x.shape))
    assert_same_state(layer, before)


@pytest.mark.filterwarnings("ignore:layer .*one value a channel")
@pytest.mark.parametrize("shape", [(2, 3), (6, 4, 3)], ids=["one value a group", "constant"])
def test_a_batch_without_variance_comes_out_as_beta(case, shape):
    """Two values that are equal: in a batch, and in each of two ghost batches of one."""
    layer, x = case.make(), np.full(shape, [-2.0, 5.0, 300.0], "float32")
    extra = case.extra(shape)
    y, dx, _, dbeta = output_and_gradients(layer, x, np.ones(shape), **extra)
    read = extra.get("mask", np.full(shape[:1], True))
    rows = extra.get("domain", np.zeros(shape[0], int))
    if case.kind is layers.FrozenBatchNorm:
        expected = reference.normalized_by(
            np.array(MEAN), np.array(VARIANCE), x, GAMMA, BETA, epsilon=0.02
        )
    elif case.kind is layers.BatchRenorm:
        start = np.array(MEAN), np.sqrt(np.array(VARIANCE) + 0.02)
        clips = {"r_max": 1.5, "d_max": 0.5, "epsilon": 0.02}
        _, d = reference.renorm_correction(x, *start, **clips)
        expected = np.broadcast_to(GAMMA * d + BETA, shape)
    else:
        beta = np.reshape(layer.beta, (-1, 3))[rows]
        expected = np.broadcast_to(beta.reshape(-1, *[1] * (len(shape) - 2), 3), shape)
    np.testing.assert_allclose(np.array(y)[read], expected[read], **CLOSE)
    if case.kind is not layers.FrozenBatchNorm:
        np.testing.assert_allclose(dx, 0, atol=1e-5)
    np.testing.assert_allclose(np.sum(dbeta), 3 * np.ones(shape)[read].size / 3, rtol=1e-5)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spoils_its_channel_and_no_other(batch, case, poison, training):
    shape = (6, 4, 3)
    clean, spoilt, extra = case.make(), case.make(), case.extra(shape)
    x, dy = batch(shape), batch(shape, 1)
    bad = x.copy()
    bad[0, 0, 1] = poison
    actual = output_and_gradients(spoilt, bad, dy, training, **extra)
    expected = output_and_gradients(clean, x, dy, training, **extra)
    y = np.array(actual[0])[..., 1]
    assert not np.isfinite(y[0, 0])
    for each, wanted in zip(
        [*actual, spoilt.moving_mean, spoilt.moving_variance],
        [*expected, clean.moving_mean, clean.moving_variance],
        strict=True,
    ):
        others = np.array(each)[..., [0, 2]], np.array(wanted)[..., [0, 2]]
        np.testing.assert_array_equal(*others)
        assert np.isfinite(wanted).all()
    if training and case.kind is not layers.FrozenBatchNorm:
        # An average over the batch has it, and so has everyone whom the average normalizes.
        assert np.isnan(y[0][extra.get("mask", np.full(shape[:2], True))[0]]).all()
        if case.kind is not layers.UntrackedBatchNorm:
            assert not np.isfinite(np.array(spoilt.moving_variance)[..., 1]).all()


def test_at_inference_no_example_reaches_another_unless_the_layer_says_so(batch, case):
    layer, x = case.make(), batch((6, 4, 3))
    extra = case.extra(x.shape)
    clean = layer(x, **extra).numpy()
    x[2] = np.nan
    y = layer(x, **extra).numpy()
    assert np.isnan(y[2]).any()
    if case.kind is layers.UntrackedBatchNorm:
        assert np.isnan(y).all()
    else:
        np.testing.assert_array_equal(np.delete(y, 2, 0), np.delete(clean, 2, 0))


@pytest.mark.parametrize(
    "name, value",
    [("momentum", value) for value in (-0.1, 1.0, "0.9", None, True, float("nan"))]
    + [("epsilon", value) for value in (0, -1, float("inf"), float("nan"), "1e-3", True)]
    + [("axis", 0)],
)
def test_momentum_epsilon_and_axis_out_of_range_are_refused_by_name(case, name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*received {re.escape(repr(value))}"):
        case.kind(**{**case.options, name: value})


@pytest.mark.parametrize("shape", [(3,), (None, 4, None)])
def test_inputs_without_examples_or_known_channels_are_refused_with_their_shape(case, shape):
    with pytest.raises(ValueError, match=f"shape .*received {re.escape(str(shape))}"):
        case.kind(**case.options).build(shape)


@BOTH
def test_integers_are_refused_by_name_and_move_nothing(case, training):
    layer = case.make()
    before = state(layer)
    with pytest.raises(ValueError, match="x must be floating point; received int32"):
        layer(np.ones((6, 3), "int32"), training=training, **case.extra((6, 3)))
    assert_same_state(layer, before)


def test_an_empty_batch_moves_nothing_and_is_refused_by_layers_that_average_it(case):
    layer, x = case.make(), np.ones((0, 3), "float32")
    before = state(layer)
    if case.kind is layers.FrozenBatchNorm:
        assert layer(x, training=True, **case.extra(x.shape)).shape == (0, 3)
        assert_same_state(layer, before)
        return
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="at least one"):
        layer(x, training=True, **case.extra(x.shape))
    assert_same_state(layer, before)


@pytest.mark.parametrize("training", [True, False])
def test_a_call_with_an_argument_that_the_layer_does_not_know_is_refused(case, training):
    layer, x = case.make(), np.ones((4, 3), "float32")
    before = state(layer)
    for name in {"trainning", "steps", "domain"} - set(case.extra(x.shape)):
        with pytest.raises(TypeError, match=name):
            layer(x, training=training, **case.extra(x.shape), **{name: x[:, 0] > 0})
    assert_same_state(layer, before)
