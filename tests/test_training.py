"""Tests of bnref.training: the loop, its batches and its measurements."""

import itertools
import re
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from bnref import BatchNorm
from bnref.training import Run, evaluate, shuffled_batches, train
from bnref_gallery.models import perceptron, two_convolutions

pytestmark = pytest.mark.slow


def small_model():
    return perceptron(BatchNorm, inputs=(4,), units=(8,), outputs=3)


def weights(model):
    return [np.array(each) for each in model.variables]


def history_and_weights(data, *, seed, make=small_model):
    keras.utils.set_random_seed(seed)
    model = make()
    history = train(
        model, *data, steps=6, batch_size=16, seed=seed, every=1,
        measure=lambda run: {"bias": float(run.model.layers[-1].bias[0])},
    )  # fmt: skip
    return history, weights(model)


def test_the_same_seed_gives_the_same_history_and_weights_bit_for_bit(separable):
    (one, first), (two, second) = (history_and_weights(separable, seed=3) for _ in range(2))
    assert one.keys() == two.keys() == {"step", "loss", "bias"}
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    for actual, expected in zip(first, second, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_dropout_and_convolutions_are_repeated_by_the_same_seed_too(batch):
    data = batch((32, 8, 8, 3)), np.arange(32) % 10

    def make():
        return two_convolutions(BatchNorm, image_shape=(8, 8, 3), filters=(4, 4), units=16)

    (one, first), (two, second) = (history_and_weights(data, seed=3, make=make) for _ in range(2))
    np.testing.assert_array_equal(one["loss"], two["loss"])
    for actual, expected in zip(first, second, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_another_seed_gives_another_order_and_so_another_history(separable):
    histories = []
    for seed in (0, 1):
        keras.utils.set_random_seed(0)
        histories.append(train(small_model(), *separable, steps=3, batch_size=16, seed=seed))
    assert histories[0]["loss"][-1] != histories[1]["loss"][-1]


@pytest.mark.parametrize("size, batch_size", [(10, 3), (10, 10), (7, 5), (4, 1)])
def test_each_epoch_visits_every_example_once_and_batches_span_epochs(size, batch_size):
    x, y = np.arange(size), -np.arange(size)
    batches = list(
        itertools.islice(shuffled_batches(x, y, batch_size=batch_size, seed=0), 3 * size)
    )
    assert {each.shape for each, _ in batches} == {(batch_size,)}
    visited = np.concatenate([each for each, _ in batches])
    np.testing.assert_array_equal(visited, -np.concatenate([each for _, each in batches]))
    epochs = np.split(visited, range(size, len(visited), size))
    for epoch in epochs[: len(visited) // size]:
        np.testing.assert_array_equal(np.sort(epoch), x)


def test_each_epoch_has_an_order_of_its_own_that_the_seed_alone_decides():
    def epochs(seed):
        batches = shuffled_batches(np.arange(50), np.arange(50), batch_size=50, seed=seed)
        return [np.array(x) for x, _ in itertools.islice(batches, 3)]

    one = epochs(1)
    np.random.seed(4)
    for order, again in zip(one, epochs(1), strict=True):
        np.testing.assert_array_equal(order, again)
    orders = [tuple(each) for each in (*one, *epochs(2))]
    assert len(set(orders)) == 6


@pytest.mark.parametrize("often", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 90, 500])
def test_evaluation_equals_float64_numpy_for_any_batch_size_and_moves_nothing(
    separable, batch_size, often
):
    x, y = separable
    model = small_model()
    model(x, training=True)
    measure = Run(model).evaluate if often else partial(evaluate, model)
    before = weights(model)
    loss, accuracy = measure(x, y, batch_size=batch_size)

    logits = np.array(model(x, training=False), "float64")
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.sum(np.exp(shifted), 1)) - shifted[np.arange(90), y]
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert accuracy == np.mean(np.argmax(logits, 1) == y)
    assert 0 < accuracy < 1, "an accuracy that tells right from wrong"
    for actual, expected in zip(weights(model), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_run_evaluates_the_model_as_it_is_now(separable):
    """What was compiled for the first evaluation reads weights and population anew."""
    x, y = separable
    model = small_model()
    run = Run(model)
    found = [run.evaluate(x, y)]
    for _ in range(2):
        model(5 * x + 1, training=True)
        model.set_weights([1.5 * each for each in model.get_weights()])
        found.append(run.evaluate(x, y))
        assert found[-1] == pytest.approx(evaluate(model, x, y), rel=1e-5)
    assert len({loss for loss, _ in found}) == 3


@pytest.mark.parametrize(
    "steps, every, measured_at", [(7, 3, [0, 3, 6, 7]), (6, 3, [0, 3, 6]), (2, 10, [0, 2])]
)
def test_measuring_is_at_the_start_at_every_so_many_steps_and_at_the_end(
    separable, steps, every, measured_at
):
    model, calls = small_model(), []

    def measure(run):
        assert run.model is model
        calls.append(float(model.layers[-1].bias[0]))
        return {"bias": calls[-1], "number": len(calls)}

    history = train(model, *separable, steps=steps, batch_size=16, measure=measure, every=every)
    np.testing.assert_array_equal(history["step"], measured_at)
    np.testing.assert_array_equal(history["bias"], calls)
    np.testing.assert_array_equal(history["number"], np.arange(len(calls)) + 1)
    np.testing.assert_array_equal(np.isnan(history["loss"]), [step == 0 for step in measured_at])
    assert len(set(calls)) == len(calls), "each measured after further steps"


def test_a_history_holds_the_loss_of_the_step_before_and_the_weights_follow_the_gradient(separable):
    """A linear model, three steps of gradient descent by hand."""
    x, y = separable[0], separable[0][:, :2] * [1, -2]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    kernel, bias = (np.array(each, "float64") for each in model.variables)
    history = train(
        model, x, y.astype("float32"), steps=3, batch_size=20, every=1, seed=5,
        optimizer=keras.optimizers.SGD(1e-4), loss=lambda y, output: (y - output) ** 2,
    )  # fmt: skip
    losses = []
    for some_x, some_y in itertools.islice(shuffled_batches(x, y, batch_size=20, seed=5), 3):
        some_x, error = np.array(some_x, "float64"), None
        error = some_x @ kernel + bias - np.array(some_y)
        losses.append(np.mean(error**2))
        kernel = kernel - 1e-4 * some_x.T @ (2 * error / error.size)
        bias = bias - 1e-4 * np.sum(2 * error / error.size, 0)
    np.testing.assert_allclose(history["loss"], [np.nan, *losses], rtol=1e-4)
    np.testing.assert_allclose(model.variables[0], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.variables[1], bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [None, BatchNorm])
def test_training_learns_a_separable_problem(separable, norm):
    model = perceptron(norm, inputs=(4,), units=(16,), outputs=3)
    before, _ = evaluate(model, *separable)
    train(model, *separable, steps=60, batch_size=30, optimizer=keras.optimizers.Adam(0.05))
    after, _ = evaluate(model, *separable)
    assert after < 0.7 * before


def test_training_moves_population_statistics_toward_the_data(separable):
    x, y = separable
    model = keras.Sequential([keras.Input((4,)), BatchNorm(momentum=0.5), keras.layers.Dense(3)])
    train(model, x, y, steps=20, batch_size=90)
    layer = model.layers[0]
    np.testing.assert_allclose(layer.moving_mean, x.mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(layer.moving_variance, x.var(0), rtol=1e-3)


def test_one_run_traces_its_step_once(separable):
    traced = []

    def loss(y, output):
        traced.append(output.shape)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)

    train(small_model(), *separable, steps=15, batch_size=16, loss=loss)
    assert traced == [(16, 3)]


def test_a_loss_that_is_not_finite_is_kept_as_it_is(separable):
    history = train(
        small_model(), *separable, steps=2, batch_size=16, every=1,
        loss=lambda y, output: tf.reduce_sum(output, -1) * np.inf, nonfinite="keep",
    )  # fmt: skip
    assert not np.isfinite(history["loss"]).any() and len(history["loss"]) == 3


def not_finite(value):
    def change(x, y):
        x = x.copy()
        x[3, 1] = value
        return x, y

    return change


def too_few_labels(x, y):
    return x, y[:-1]


@pytest.mark.parametrize(
    "options, change, message",
    [
        *(
            ({name: value}, None, f"{name} must be a whole number, at least 1; received {value!r}")
            for name in ("steps", "batch_size", "every")
            for value in (0, -1, 1.5, True, None, "2")
        ),
        ({"batch_size": 91}, None, "batch_size must be at most 90; received 91"),
        ({}, too_few_labels, "x and y must be equally long; received 90 and 89"),
    ],
)
def test_bad_arguments_are_refused_by_name_before_anything_is_trained(
    separable, options, change, message
):
    model, measured = small_model(), []
    before = weights(model)
    data = change(*separable) if change else separable
    with pytest.raises(ValueError, match=re.escape(message)):
        train(
            model, *data, measure=lambda run: measured.append(1) or {},
            **{"steps": 2, "batch_size": 16, **options},
        )  # fmt: skip
    assert not measured
    for actual, expected in zip(weights(model), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "batch_size, change, message",
    [
        (0, None, "batch_size must be a whole number, at least 1; received 0"),
        (1.5, None, "batch_size must be a whole number, at least 1; received 1.5"),
        (10, too_few_labels, "x and y must be equally long; received 90 and 89"),
        (10, not_finite(np.nan), "x must be finite; received 1 values that are not"),
    ],
)
def test_bad_arguments_of_an_evaluation_are_refused_by_name(separable, batch_size, change, message):
    data = change(*separable) if change else separable
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate(small_model(), *data, batch_size=batch_size)


@pytest.mark.parametrize("progress", [True, False, None])
def test_progress_is_written_to_standard_error_when_asked_for(separable, capsys, progress):
    train(small_model(), *separable, steps=2, batch_size=16, progress=progress)
    written = capsys.readouterr()
    assert written.out == ""
    # Unless asked, on a terminal only, and a captured stream is none.
    assert ("training" in written.err) is bool(progress)
    assert progress or written.err == ""


def test_a_compiled_step_moves_weights_and_populations_once_and_gives_the_loss_before():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), BatchNorm(momentum=0.5)])
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)).astype("float32"), random.integers(0, 4, 8).astype("int32")
    kernel, hidden = model.layers[0].kernel.numpy(), model.layers[0](x).numpy()
    logits = keras.ops.convert_to_numpy(model(x, training=True))  # moves the population once
    expected = -np.mean((logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(8), y])
    step = Run(model, keras.optimizers.SGD(0.1)).step
    assert float(step(x, y)) == pytest.approx(expected, rel=1e-5)
    assert np.abs(model.layers[0].kernel.numpy() - kernel).max() > 1e-4
    np.testing.assert_allclose(model.layers[1].moving_mean, 0.75 * hidden.mean(0), rtol=1e-4)


def test_a_compiled_step_takes_another_loss():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
    step = Run(model, keras.optimizers.SGD(0.0), lambda y, output: (output[:, 0] - y) ** 2).step
    x, y = np.array([[1, 2, 3], [0, 0, 1]], "float32"), np.array([4, 4], "float32")
    assert float(step(x, y)) == pytest.approx((2**2 + 3**2) / 2)


def losses_of(separable, **options):
    keras.utils.set_random_seed(0)
    model = small_model()
    history = train(model, *separable, steps=4, batch_size=16, every=1, **options)
    return history["loss"][1:], weights(model)


def test_compiled_by_xla_a_step_does_the_same(separable):
    (one, first), (two, second) = losses_of(separable), losses_of(separable, jit_compile=True)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    for actual, expected in zip(first, second, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 3])
def test_accumulated_gradients_are_those_of_the_parts_each_normalized_by_itself(separable, parts):
    """One step of gradient descent by hand, and the population after as many batches as parts."""
    x, y = separable[0][:16], separable[1][:16]
    keras.utils.set_random_seed(0)
    model, by_hand = small_model(), small_model()
    by_hand.set_weights(model.get_weights())
    loss = Run(model, keras.optimizers.SGD(0.5), accumulate=parts).step(x, y)
    with tf.GradientTape() as tape:
        total = 0.0
        for own_x, own_y in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
            logits = by_hand(own_x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(own_y, logits)
            total += tf.reduce_sum(losses) / 16
    kernels = [v.value for v in by_hand.trainable_variables]
    for variable, gradient in zip(kernels, tape.gradient(total, kernels), strict=True):
        variable.assign_sub(0.5 * gradient)
    assert float(loss) == pytest.approx(float(total), rel=1e-6)
    for actual, expected in zip(weights(model), weights(by_hand), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


class HalfUsed(keras.Model):
    """Not a functional model: not every Keras counts an unused layer as part of one."""

    def build(self, shape):
        self.used, self.unused = keras.layers.Dense(3), keras.layers.Dense(2)
        self.used.build(shape)
        self.unused.build(shape)

    def call(self, x):
        return self.used(x)


def test_a_weight_that_is_not_used_stays_with_accumulation_too(separable):
    model = HalfUsed()
    model.build((None, 4))
    unused, before = model.unused, np.array(model.unused.kernel)
    assert len(model.trainable_variables) == 4
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        Run(model, keras.optimizers.SGD(0.5), accumulate=2).step(*(e[:8] for e in separable))
    np.testing.assert_array_equal(unused.kernel, before)


def test_the_models_own_losses_are_added_once(separable):
    def penalized(factor):
        keras.utils.set_random_seed(0)
        regularizer = keras.regularizers.L2(factor)
        layers = [keras.Input((4,)), keras.layers.Dense(3, kernel_regularizer=regularizer)]
        return keras.Sequential(layers)

    model = penalized(0.1)
    penalty = 0.1 * float(np.sum(np.square(model.variables[0])))
    batch = [each[:8] for each in separable]
    without = float(Run(penalized(0.0), keras.optimizers.SGD(0.1)).step(*batch))
    for parts in (1, 4):
        step = Run(penalized(0.1), keras.optimizers.SGD(0.1), accumulate=parts).step
        assert float(step(*batch)) == pytest.approx(without + penalty, rel=1e-5)
    assert penalty > 0.01


def test_a_loss_of_one_number_is_accepted_on_one_replica(separable):
    def mean(y, output):
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, output))

    (one, first), (two, second) = losses_of(separable), losses_of(separable, loss=mean)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5, atol=1e-7)


def test_without_carry_an_epoch_ends_with_a_short_batch():
    batches = shuffled_batches(np.arange(7), np.arange(7), batch_size=3, seed=0, carry=False)
    epochs = [[np.array(next(batches)[0]) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [3, 3, 1]
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(7))
    assert tuple(np.concatenate(epochs[0])) != tuple(np.concatenate(epochs[1]))


@pytest.mark.parametrize("carry", [True, False])
def test_left_out_batches_count_as_drawn(carry):
    def drawn(start):
        batches = shuffled_batches(
            np.arange(10), np.arange(10), batch_size=4, seed=1, carry=carry, start=start
        )
        return [tuple(np.array(x)) for x, _ in itertools.islice(batches, 9 - start)]

    assert drawn(5) == drawn(0)[5:] and len(drawn(0)) == 9


def test_a_loss_that_is_not_finite_stops_and_names_the_step_it_began_at(separable):
    optimizer = keras.optimizers.SGD(0.1)

    def loss(y, output):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)
        return tf.where(tf.cast(optimizer.iterations.value, tf.int32) >= 3, np.nan, losses)

    measured = []
    with pytest.raises(FloatingPointError, match="the loss is nan at step 4, on replica 0 of 1"):
        train(
            small_model(), *separable, steps=20, batch_size=16, every=10, optimizer=optimizer,
            loss=loss, measure=lambda run: measured.append(1) or {},
        )  # fmt: skip
    assert len(measured) == 1, "measured before the first step, and not after the NaN"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"nonfinite": "ignore"}, "nonfinite must be 'raise' or 'keep'; received 'ignore'"),
        ({"accumulate": 0}, "accumulate must be a whole number, at least 1; received 0"),
        ({"accumulate": 17}, "accumulate must be at most 16, the smallest batch; received 17"),
        ({"accumulate": 11, "carry": False}, "accumulate must be at most 10, the smallest batch;"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_trained(separable, options, said):
    model = small_model()
    before = weights(model)
    with pytest.raises(ValueError, match=said):
        train(model, *separable, steps=2, batch_size=16, **options)
    for actual, expected in zip(weights(model), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_labels_of_several_positions_an_example_are_counted_one_by_one(batch):
    x, y = batch((5, 7, 4)), np.arange(35).reshape(5, 7) % 3
    model = keras.Sequential([keras.Input((7, 4)), keras.layers.Dense(3)])
    logits = np.float64(model(x))
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, y[..., None], -1)[..., 0]
    loss, accuracy = evaluate(model, x, y, batch_size=2)
    assert loss == pytest.approx(losses.mean(), rel=1e-5)
    assert accuracy == np.mean(logits.argmax(-1) == y) and 0 < accuracy < 1


def test_an_optimizer_that_accumulates_by_itself_is_accepted(separable):
    model = small_model()
    before = weights(model)
    step = Run(model, keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)).step
    step(*(each[:8] for each in separable))
    np.testing.assert_array_equal(before[0], weights(model)[0])
    step(*(each[8:16] for each in separable))
    assert np.abs(before[0] - weights(model)[0]).max() > 0


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
def test_class_numbers_of_any_type_give_the_same_losses(separable, dtype):
    x, y = separable
    (one, _), (two, _) = losses_of((x, y)), losses_of((x, y.astype(dtype)))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("seed", [None, -1, "x", 1.5, True])
def test_a_seed_that_is_none_is_refused(separable, seed):
    with pytest.raises(ValueError, match="seed must be a whole number, at least 0; received"):
        train(small_model(), *separable, steps=2, batch_size=16, seed=seed)


@pytest.mark.parametrize("wrap", [lambda x: x.tolist(), lambda x: {}, tf.constant, tuple])
def test_what_is_no_array_with_examples_is_refused_by_name(separable, wrap):
    x, y = separable
    for arguments in ((wrap(x.ravel()), y), (x, wrap(y))):
        with pytest.raises(ValueError, match="[xy] must be one array, or arrays in.*; received"):
            train(small_model(), *arguments, steps=2, batch_size=16)


def test_an_evaluation_of_nothing_is_refused(separable):
    x, y = separable
    with pytest.raises(ValueError, match="x must hold at least one example; received none"):
        evaluate(small_model(), x[:0], y[:0])


def test_a_step_on_arrays_of_different_lengths_is_refused(separable):
    x, y = separable
    step = Run(small_model(), keras.optimizers.SGD(0.1)).step
    with pytest.raises(ValueError, match="x and y must be equally long; received 4 and 5"):
        step(x[:4], y[:5])


def test_what_is_measured_has_the_same_names_each_time(separable):
    names = iter("abb")
    with pytest.raises(ValueError, match=r"measure must give \['a'\] each time; received \['b'\]"):
        train(
            small_model(), *separable, steps=2, batch_size=16, every=1,
            measure=lambda run: {next(names): np.float32(1)},
        )  # fmt: skip


def test_a_layer_counts_as_it_is_frozen_in_each_step(separable):
    model = small_model()
    run = Run(model, keras.optimizers.SGD(0.1))
    norm = next(each for each in model.layers if isinstance(each, BatchNorm))
    x, y = (each[:16] for each in separable)
    moved = []
    for frozen in (False, True, False, True):
        norm.trainable = not frozen
        before = norm.get_weights()
        run.step(x, y)
        pairs = zip(before, norm.get_weights(), strict=True)
        moved.append([not np.array_equal(old, new) for old, new in pairs])
    assert moved == [[True] * 4, [False] * 4, [True] * 4, [False] * 4]
