"""Tests of bnref.training's evaluation: by which population, and counted by which metrics."""

import pickle
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluating import BATCHES, X, Y, network, norms
from helpers import QUIET, in_new_process, result_in_new_process

from bnref import devices, population, training, workers
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
