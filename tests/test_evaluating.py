"""Tests of bnref.training's evaluation: by which population, and counted by which metrics."""

import pickle
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluating import BATCHES, SUM, TARGETS, WEIGHTS, X, Y, network, norms
from helpers import QUIET, in_new_process, result_in_new_process

from bnref import BatchNorm, devices, population, training, workers
from bnref.training import Run, evaluate

pytestmark = pytest.mark.slow
SCRIPT = str(Path(__file__).with_name("evaluating.py"))
LIMIT = 300  # seconds, a safety net
ON = pytest.mark.parametrize("on", [1, 2, 3, "workers"])
WHO = pytest.mark.parametrize("who", ["run", "function"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What was found on one, two and three devices, and on two workers."""
    folder = tmp_path_factory.mktemp("evaluated")
    in_new_process(SCRIPT, str(folder / "devices"))
    workers.start(SCRIPT, 2, str(folder / "workers"), "workers", timeout=LIMIT, environment=QUIET)
    found = pickle.loads((folder / "devices").read_bytes())
    return {**found, "workers": pickle.loads((folder / "workers").read_bytes())}


def model_with(moments):
    """The same weights, with (mean, variance) in each norm."""
    keras.utils.set_random_seed(0)
    model = network()
    for norm, (mean, variance) in zip(norms(model), moments, strict=True):
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    return model


def mixture(replicas):
    """The moments of the replicas' populations together, in float64 and by another formula."""
    found = []
    for size in (6, 8):
        channels, numbers = np.arange(float(size)), np.arange(float(replicas))[:, None]
        means, variances = channels / 3 - numbers, 0.5 + channels + 2 * numbers
        mean = means.mean(0)
        found.append((mean, (variances + means**2).mean(0) - mean**2))
    return found


@ON
@WHO
def test_the_mean_of_the_populations_is_that_of_a_mixture(ran, on, who):
    replicas = 2 if on == "workers" else on
    wanted = evaluate(model_with(mixture(replicas)), X, Y)
    np.testing.assert_allclose(ran[on]["populations"]["mean", who], wanted, rtol=1e-5)
    if replicas > 1:
        assert abs(wanted[0] - ran[on]["populations"]["first"][0]) > 1e-2


@ON
@WHO
@pytest.mark.parametrize("given", ["batches", "data set"])
def test_a_population_of_batches_is_the_one_that_recompute_finds(ran, on, who, given):
    model = model_with(mixture(1))
    population.recompute(model, BATCHES)
    wanted = evaluate(model, X, Y)
    np.testing.assert_allclose(ran[on]["populations"][given, who], wanted, rtol=1e-5)
    assert abs(wanted[0] - ran[1]["populations"]["first"][0]) > 1e-2


@ON
@WHO
@pytest.mark.parametrize("name", ["mean", "batches", "data set"])
def test_after_an_evaluation_every_replica_has_what_it_had_to_the_bit(ran, on, who, name):
    assert ran[on]["populations"][name, who, "same"]


@ON
def test_after_an_evaluation_that_failed_too(ran, on):
    found = ran[on]["populations"]
    assert "x must be finite" in found["failed"]
    assert "batches must hold at least one batch" in found["failed to recompute"]
    assert found["same after errors"]


@ON
def test_the_first_replicas_population_is_used_unless_another_is_asked_for(ran, on):
    wanted = evaluate(model_with(mixture(1)), X, Y)
    np.testing.assert_allclose(ran[on]["populations"]["first"], wanted, rtol=1e-5)


@pytest.mark.parametrize("given", ["last", None, 3, X, {"x": X}, b"mean", Run])
def test_what_is_no_population_is_refused(given):
    said = "population must be 'first', 'mean', or batches to recompute it from"
    with pytest.raises(ValueError, match=re.escape(said)):
        evaluate(network(), X, Y, population=given)


def test_a_run_traces_the_pass_once_and_anew_where_something_was_frozen():
    """Whatever the sizes of the batches, and in the next evaluation."""
    traced = []

    class Counting(keras.layers.Layer):
        def call(self, x, training=False):
            if training:
                traced.append(x.shape)
            return x

    model = keras.Sequential([keras.Input((6,)), Counting(), *network().layers])
    run = training.Run(model)
    counts = []
    for frozen in (False, False, True, True, False):
        model.layers[1].trainable = not frozen
        run.evaluate(X, Y, population=BATCHES)
        counts.append(len(traced))
    first, again, frozen, frozen_again, thawed = counts
    assert first == again <= 2 and frozen == frozen_again == thawed > first


def test_recomputing_on_replicas_gives_no_warning_of_tracing():
    result_in_new_process(recomputed_many_times)


def recomputed_many_times():
    """With eight models; TensorFlow warns from the fifth tracing of one piece of code on."""
    devices.configure(cpus=2)
    strategy, said = training.strategy(2), []
    tf.get_logger().addFilter(lambda record: said.append(record.getMessage()) or True)
    for _ in range(8):
        with strategy.scope():
            model = network()
        population.recompute(model, BATCHES)
        evaluate(model, X, Y)
    assert not [each for each in said if "retracing" in each]


# Metrics.


def log_softmax(logits):
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def by_numpy(logits, weights):
    """What the metrics of `evaluating.metrics` and the area under the curve are, in float64."""
    true, examples = TARGETS[: len(logits)], np.arange(len(logits))
    rank = (logits > logits[examples, true][:, None]).sum(1)
    found = {
        "top": np.average(rank < 2, weights=weights),
        "entropy": np.average(-log_softmax(logits)[examples, true], weights=weights),
        "largest": max(logits.max(), 0),  # the metric starts at 0
        "spread": np.average(np.ptp(logits, 1), weights=weights),
    }
    score = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    thresholds = np.array([-1e-7, *np.arange(1, 199) / 199, 1 + 1e-7])
    above = score[:, None] > thresholds
    positive = (weights * (true == 1)) @ above / max(weights[true == 1].sum(), 1e-7)
    negative = (weights * (true != 1)) @ above / max(weights[true != 1].sum(), 1e-7)
    area = np.trapezoid if hasattr(np, "trapezoid") else np.trapz  # NumPy 2 has another name for it
    return {**found, "area": area(positive[::-1], negative[::-1])}


@ON
@WHO
@pytest.mark.parametrize("name", ["arrays", "weighted", "data set", "small"])
def test_metrics_are_those_of_all_examples_whatever_the_shares(ran, on, who, name):
    kernel, bias = (np.float64(each) for each in ran[on]["metrics"]["weights"][4:])
    logits = np.float64(X) / np.sqrt(1 + 1e-3) @ kernel + bias
    weights = WEIGHTS if name in ("weighted", "data set") else np.ones(61)
    size = 1 if name == "small" else 61
    wanted, found = by_numpy(logits[:size], weights[:size]), ran[on]["metrics"][name, who]
    assert found.keys() == wanted.keys()
    for each in wanted:
        close = 1e-3 if each == "area" else 1e-5  # the metric rounds to 200 thresholds
        assert found[each] == pytest.approx(wanted[each], rel=close), each


def test_metrics_without_weights_differ_so_that_weights_show(ran):
    one, other = (ran[1]["metrics"][name, "run"] for name in ("arrays", "weighted"))
    assert min(abs(one[each] - other[each]) for each in ("top", "entropy", "spread")) > 1e-3


@ON
def test_metrics_are_as_they_were_made_after_an_evaluation(ran, on):
    assert not any(map(np.any, ran[on]["metrics"]["state"]))


@ON
def test_each_output_has_metrics_of_its_own(ran, on):
    found = ran[on]["metrics"]
    kernel, bias, of_sum, offset = (np.float64(each) for each in found["two weights"])
    logits, error = X @ kernel + bias, np.mean((X @ of_sum + offset - SUM) ** 2)
    wanted = by_numpy(logits, np.ones(61))
    assert found["two"].keys() == {"top", "entropy", "largest", "spread", "error"}
    for each in ("top", "entropy", "largest", "spread"):
        assert found["two"][each] == pytest.approx(wanted[each], rel=1e-5)
    assert found["two"]["error"] == pytest.approx(error, rel=1e-5)
    assert found["list"] == {"error": pytest.approx(error, rel=1e-5)}
    assert found["all of two"] == {"spread": pytest.approx(wanted["spread"], rel=1e-5)}


def test_metrics_made_inside_the_scope_of_several_replicas_are_refused(ran):
    for on in (2, 3, "workers"):
        said = "metrics must be made outside of the strategy's scope, as they are counted in one"
        assert said in ran[on]["metrics"]["inside"]
    assert ran[1]["metrics"]["inside"] == "nothing was refused", "there is no other place"


def several_outputs():
    x = keras.Input((6,))
    return keras.Model(x, [keras.layers.Dense(2)(x), keras.layers.Dense(3)(x)])


def mean():
    return keras.metrics.Mean()


@pytest.mark.parametrize(
    "make, metrics, said",
    [
        (
            network,
            lambda: [mean(), mean()],
            "metrics must have names of their own; received 2 that are",
        ),
        (
            network,
            lambda: ["accuracy"],
            "metrics must be Keras metrics or functions (y, output), in a",
        ),
        (
            network,
            lambda: {"a": mean()},
            "metrics must be in a list for a model of one output; received",
        ),
        (
            several_outputs,
            lambda: [mean()],
            "in the structure of the model's outputs, [0, 1]; received",
        ),
        (
            several_outputs,
            lambda: {"a": mean()},
            "in the structure of the model's outputs, [0, 1]; rec",
        ),
    ],
)
def test_metrics_of_another_structure_are_refused(make, metrics, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        evaluate(make(), X, Y, metrics=metrics())


def test_a_loop_can_measure_metrics():
    entropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")

    def measure(run):
        both = dict(zip(("loss_by_hand", "accuracy"), run.evaluate(X, Y), strict=True))
        return {**both, **run.evaluate(X, Y, metrics=[entropy])}

    history = training.train(network(), X, Y, steps=4, batch_size=20, every=2, measure=measure)
    np.testing.assert_allclose(history["entropy"], history["loss_by_hand"], rtol=1e-5)
    assert history["entropy"].shape == (3,) and np.ptp(history["entropy"]) > 1e-3


# Averaged weights.


def average(weights, momentum=0.8):
    """The first, and from then on a moving average."""
    found = np.float64(weights[0])
    for each in weights[1:]:
        found = momentum * found + (1 - momentum) * each
    return found


@ON
@pytest.mark.parametrize("name", ["averaged", "scaled"])
def test_the_averages_are_updated_once_a_step_and_on_every_replica(ran, on, name):
    found = ran[on][name]
    here = 1 if on == "workers" else on
    trained = [average(each) for each in zip(*found["weights"], strict=True)]
    averages = [found["averages"][i : i + here] for i in range(0, len(found["averages"]), here)]
    for i, wanted in zip((0, 1, 4, 5, 6, 9, 10), trained, strict=True):
        for each in averages[i]:
            np.testing.assert_allclose(each, wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(trained[2] - found["weights"][-1][2]).max() > 1e-2


@ON
@pytest.mark.parametrize("name", ["averaged", "scaled"])
def test_averages_are_evaluated_with_statistics_of_their_own_as_on_one_device(ran, on, name):
    for key in ("before the first", "last", "evaluated"):
        np.testing.assert_allclose(ran[on][name][key], ran[1][name][key], rtol=1e-4)
    one = ran[1][name]
    assert abs(one["evaluated"][0] - one["last"][0]) > 1e-2


@ON
@pytest.mark.parametrize("name", ["averaged", "scaled"])
def test_before_the_first_step_the_averages_are_the_weights(ran, on, name):
    """Keras begins its averages at 0, and gives them the weights at the first step."""
    found = ran[on][name]
    np.testing.assert_allclose(found["before the first"], found["not averaged"], rtol=1e-6)


def test_the_statistics_of_the_averages_are_those_that_recompute_finds(ran):
    layers = [keras.Input((6,)), BatchNorm(), keras.layers.Dense(8, use_bias=False), BatchNorm()]
    model = keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(2)])
    model.set_weights(ran[1]["averaged"]["averages"])
    found = evaluate(model, X, Y)
    np.testing.assert_allclose(found, ran[1]["averaged"]["evaluated"], rtol=1e-5)
    population.recompute(model, BATCHES)
    np.testing.assert_allclose(evaluate(model, X, Y), found, rtol=1e-4)


@ON
@pytest.mark.parametrize("name", ["averaged", "scaled"])
def test_after_the_averages_every_replica_has_what_it_had_to_the_bit(ran, on, name):
    assert ran[on][name]["same"] and ran[on][name]["same after an error"]
    assert "batches gave moments that are not finite" in ran[on][name]["failed"]


def test_averages_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="optimizer must average the weights, as it does when it"):
        Run(network()).averaged(BATCHES).__enter__()


def test_averages_are_refused_what_are_no_batches():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True)
    with pytest.raises(ValueError, match="batches must be batches of inputs, in a list or a tf"):
        Run(network(), optimizer).averaged("mean").__enter__()
