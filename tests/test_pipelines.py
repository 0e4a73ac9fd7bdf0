"""Tests of bnref.training on ``tf.data``: the same global batches give one curve, wherever."""

import pickle
import re
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import QUIET, in_new_process, result_in_new_process
from pipelines_training import RUNS, WEIGHTS, X, Y, batched, learned, network, slices

from bnref import training, workers
from bnref.training import evaluate, train

pytestmark = pytest.mark.slow
SCRIPT = str(Path(__file__).with_name("pipelines_training.py"))
NAMES = pytest.mark.parametrize("name", RUNS)
LIMIT = 300  # seconds, a safety net


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    file = tmp_path_factory.mktemp("devices") / "results"
    in_new_process(SCRIPT, str(file))
    return pickle.loads(file.read_bytes())


@pytest.fixture(scope="module")
def ran_by_workers(tmp_path_factory):
    file = tmp_path_factory.mktemp("workers") / "results"
    workers.start(SCRIPT, 2, str(file), "workers", timeout=LIMIT, environment=QUIET)
    return pickle.loads(file.read_bytes())


def assert_one_curve(one, other, name):
    (history, weights, evaluated), (others, other_weights, other_evaluated) = one, other
    np.testing.assert_array_equal(history["step"], others["step"])
    np.testing.assert_allclose(others["loss"], history["loss"], atol=1e-4)
    np.testing.assert_allclose(other_evaluated, evaluated, atol=1e-4)
    for a, b in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert np.ptp(history["loss"][1:]) > 1e-2, "a curve that moves"
    assert len(history["step"]) == (5 if name == "one pass" else 9)


@NAMES
@pytest.mark.parametrize("replicas", [2, 3])
def test_several_devices_have_the_curve_and_the_evaluation_of_one(ran, name, replicas):
    assert_one_curve(ran[1][name], ran[replicas][name], name)


@NAMES
def test_two_workers_have_the_curve_and_the_evaluation_of_one_device(ran, ran_by_workers, name):
    assert_one_curve(ran[1][name], ran_by_workers[name], name)


def by_hand(batches, weighted=False):
    """The losses of `Run.step` on one batch after the other, in a model of its own."""
    keras.utils.set_random_seed(0)
    run = training.Run(network(), keras.optimizers.Adam(0.01))
    return [float(run.step(*batch)) for batch in batches]


@pytest.mark.parametrize("name", ["finite", "repeated", "of unknown length"])
def test_a_data_set_is_trained_on_batch_by_batch_and_begins_anew_at_its_end(ran, name):
    batches = [(X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40, 60)] * 2
    np.testing.assert_allclose(ran[1][name][0]["loss"][1:], by_hand(batches), rtol=1e-5)


def test_weights_multiply_the_losses_and_count_in_the_evaluation(ran):
    batches = [
        (X[i : i + 20], Y[i : i + 20], WEIGHTS[i : i + 20]) for i in (0, 20, 40, 60)
    ] * 2  # fmt: skip
    history, weights, evaluated = ran[1]["weights"]
    np.testing.assert_allclose(history["loss"][1:], by_hand(batches), rtol=1e-5)
    model = network()
    model.set_weights(weights)
    logits = np.float64(model(X, training=False))
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(61), Y]
    assert evaluated[0] == pytest.approx(np.average(losses, weights=WEIGHTS), rel=1e-5)
    right = logits.argmax(1) == Y
    assert evaluated[1] == pytest.approx(np.average(right, weights=WEIGHTS))


def test_the_first_loss_with_weights_is_their_sum_of_losses_over_the_number_of_examples():
    keras.utils.set_random_seed(0)
    model = network()
    logits = np.float64(model(X, training=True))
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(61), Y]
    step = training.Run(model, keras.optimizers.SGD(0.1)).step
    assert float(step(X, Y, WEIGHTS)) == pytest.approx(np.sum(WEIGHTS * losses) / 61, rel=1e-4)


def test_arrays_with_weights_and_their_data_set_have_another_curve_than_without(ran):
    for name in ("weights", "arrays with weights"):
        assert np.abs(ran[1][name][0]["loss"] - ran[1]["finite"][0]["loss"])[1] > 1e-2


def test_a_worker_with_fewer_examples_begins_anew_and_nobody_waits(ran_by_workers):
    history, _ = ran_by_workers["short on one"]
    assert history["step"][-1] == 8 and np.isfinite(history["loss"][1:]).all()


@pytest.mark.parametrize("name", ["shuffled", "shares"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_resumed_run_goes_on_at_the_same_example_bit_for_bit(ran, name, replicas):
    (history, weights), (others, other_weights) = ran["resumed"][name, replicas]
    for key in history:
        np.testing.assert_array_equal(history[key], others[key])
    for one, other in zip(weights, other_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    if name == "shuffled":
        assert len(set(history["loss"][1:])) == 8, "each pass has another order"


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_batch_that_is_not_finite_is_named(ran, replicas):
    wanted = "x must be finite; received values that are not in batch 3 (from 1)"
    assert ran[replicas]["refused"] == wanted


def memory_of_2000_steps():
    """Kilobytes in use after 500 steps and after 2,000."""
    used = []

    def measure(run):
        used.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4)
        return {}

    keras.utils.set_random_seed(0)
    data = slices(np.tile(X, (50, 1)), np.tile(Y, 50)).shuffle(3050, seed=0).batch(32)
    train(network(), data, steps=2000, every=500, measure=measure, progress=False)
    return used[1], used[-1]


def test_memory_stays_flat_over_2000_steps():
    before, after = result_in_new_process(memory_of_2000_steps)
    assert after - before < 8000, f"{after - before} kB more"


# Bad input.


def endless():
    return batched().repeat()


@pytest.mark.parametrize(
    "data, options, said",
    [
        (lambda: batched().take(0), {}, "x must hold at least one batch; received none"),
        (lambda: batched().filter(lambda x, y: False), {}, "x must hold at least one batch; rec"),
        (lambda: lambda context: batched().take(0), {}, "x must hold at least one batch; received"),
        (endless, {"steps": None}, "steps must be given with data that has no end; received None"),
        (lambda: batched().filter(lambda x, y: True), {"steps": None}, "that has no known end; r"),
        (lambda: lambda context: batched(), {"steps": None}, "steps must be given with data that"),
        (lambda: slices(X, Y), {}, "x must give batches, targets with an axis of examples; rec"),
        (lambda: slices(X).batch(20), {}, "x must give (inputs, targets) or (inputs, targets, w"),
        (lambda: batched().map(lambda x, y: {"x": x, "y": y}), {}, "for each batch; received dict"),
        (lambda: slices(X[:, :5], Y).batch(20), {}, "shape (N, 6); received shape (N, 5)"),
        (lambda: slices((X, X), Y).batch(20), {}, "x must have 1 inputs, as the model has; recei"),
        (lambda: lambda context: X, {}, "x must return a tf.data.Dataset; received ndarray"),
        (batched, {"y": Y}, "y must not be given with a tf.data.Dataset, which has it in its elem"),
        (batched, {"batch_size": 5}, "batch_size must not be given with a tf.data.Dataset, which"),
        (batched, {"sample_weight": WEIGHTS}, "sample_weight must not be given with a tf.data.Da"),
        (
            batched,
            {"accumulate": 2},
            "x must give batches of at least 2 examples, the number of",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name_before_anything_is_trained(
    data, options, said
):
    measured = []
    steps = {"steps": 8, **options}
    with pytest.raises(ValueError, match=re.escape(said)):
        learned(
            tf.distribute.get_strategy(), data=data, **steps,
            measure=lambda run: measured.append(1) or {},
        )  # fmt: skip
    assert len(measured) <= (4 if "accumulate" in options else 0)


def test_a_model_of_several_inputs_names_the_one_that_is_missing():
    one, other = keras.Input((2,), name="one"), keras.Input((4,), name="other")
    output = keras.layers.Dense(2)(keras.layers.Concatenate()([one, other]))
    model = keras.Model({"one": one, "other": other}, output)
    data = slices({"one": X[:, :2], "another": X[:, 2:]}, Y).batch(20)
    said = "x must have the model's inputs ['one', 'other']; received ['another', 'one'], without"
    with pytest.raises(ValueError, match=re.escape(said)):
        train(model, data, steps=2)


def test_an_evaluation_of_data_without_an_end_is_refused():
    for data in (endless(), lambda context: endless()):
        with pytest.raises(ValueError, match="x must end, to be evaluated; received data without"):
            evaluate(network(), data)


@pytest.mark.parametrize("given", [{"y": Y}, {"batch_size": 20}, {"sample_weight": WEIGHTS}])
def test_an_evaluation_of_a_data_set_takes_nothing_beside_it(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} must not be given with a tf.data"):
        evaluate(network(), batched(), **given)


def test_a_data_set_and_its_arrays_are_evaluated_alike():
    model = network()
    for measure in (partial(evaluate, model), training.Run(model).evaluate):
        np.testing.assert_allclose(measure(batched()), measure(X, Y), rtol=1e-5)
        weighted = measure(X, Y, sample_weight=WEIGHTS)
        np.testing.assert_allclose(measure(slices(X, Y, WEIGHTS).batch(20)), weighted, rtol=1e-5)
        assert weighted != measure(X, Y)


def test_weights_without_a_sum_are_refused():
    with pytest.raises(ValueError, match="sample_weight must have a sum above 0; received the sum"):
        evaluate(network(), X, Y, sample_weight=np.zeros(61))


def test_weights_of_another_length_are_refused():
    with pytest.raises(
        ValueError, match="x, y and sample_weight must be equally long; received 61"
    ):
        train(network(), X, Y, sample_weight=WEIGHTS[:60], steps=2, batch_size=9)


def test_a_data_set_is_traced_a_few_times_whatever_the_sizes_of_its_batches():
    """Batches of 2 to 11 examples."""
    traced = []
    groups = slices(np.tile(X, (2, 1))[:65], np.tile(Y, 2)[:65])
    number = np.repeat(np.arange(10), np.arange(2, 12))
    key = tf.data.Dataset.from_tensor_slices(number)
    data = tf.data.Dataset.zip(groups, key).group_by_window(
        key_func=lambda example, key: key,
        reduce_func=lambda key, window: window.map(lambda example, key: example).batch(12),
        window_size_func=lambda key: key + 2,
    )

    def loss(y, output):
        traced.append(1)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)

    assert [len(y) for _, y in data] == list(range(2, 12))
    train(network(), data, steps=20, loss=loss)
    assert len(traced) <= 3
