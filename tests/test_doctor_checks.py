"""Tests of the doctor's checks: a planted fault is named first, and its healthy twin is clean."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import result_in_new_process, strategy_of

from bnref import devices, doctor
from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._whose_size import empty_replicas
from bnref_gallery.sick_models import FAULTS

pytestmark = pytest.mark.slow

# Faults whose names are not those of the checks that find them.
OTHER_NAMES = {"always_the_batchs": "training_at_inference"}


# They need two devices of a process in which TensorFlow has not started.
ON_REPLICAS = ["replicas_differ", "empty_replica", "mask_unsynchronizes"]


@pytest.mark.filterwarnings("ignore:layer .*mask is passed on")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_first_and_its_twin_is_clean(fault):
    found = result_in_new_process(causes, fault) if fault in ON_REPLICAS else causes(fault)
    sick, healthy = found
    assert sick[0] == OTHER_NAMES.get(fault, fault)
    assert healthy == []


def causes(fault):
    """What is found in the sick model, and in its twin."""
    if fault in ON_REPLICAS:
        devices.configure(cpus=2)
        keras.utils.set_random_seed(0)
    found = []
    for model, data, *more in FAULTS[fault]():
        options = {"batch_size": more[1]} if len(more) > 1 else {}
        report = doctor.examine(model, data, *more[:1], **options)
        found.append([each.cause for each in report.findings])
        for each in report.findings:
            assert each.layers and any(sign.isdigit() for sign in each.evidence)
    return found


@pytest.mark.parametrize("axis, causes", [(-1, ["wrong_axis"]), (1, [])])
def test_the_axis_is_followed_back_through_what_keeps_or_moves_it(axis, causes):
    """Channels of a convolution, through an activation and a Permute, are in axis 1."""
    inputs = keras.Input((12, 12, 3))
    z = keras.layers.ReLU()(keras.layers.Conv2D(5, 3)(inputs))
    z = keras.layers.BatchNormalization(axis=axis)(keras.layers.Permute((3, 1, 2))(z))
    report = doctor.examine(keras.Model(inputs, z), np.ones((8, 12, 12, 3)), only=["wrong_axis"])
    assert [each.cause for each in report.findings] == causes


def test_one_far_channel_of_many_is_found_and_a_still_one_is_not():
    x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    far, still = x.copy(), x.copy()
    far[:, 7] += 3e4  # its variance cancels
    still[:, 7] = 1 + 1e-4 * x[:, 7]  # |μ|/σ is 1e4, but ε is what divides it
    found = []
    for inputs in (far, still):
        model = keras.Sequential([keras.Input((20,)), keras.layers.BatchNormalization()])
        report = doctor.examine(model, inputs, only=["large_mean"])
        found.append([each.cause for each in report.findings])
    assert found == [["large_mean"], []]


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "exponential"])
def test_random_batches_are_never_called_alike(draw):
    """Whatever the distribution, in 40 data sets of 8 batches.

    A ratio twice as large as that of 99 regroupings is needed.
    """
    random = np.random.default_rng(0)
    for _ in range(40):
        values = getattr(random, draw)(size=(8, 16, 3))
        assert statistics.alikeness(values) < max(3, 2 * statistics.by_chance(values))


def test_alikeness_is_the_ratio_of_the_analysis_of_variance():
    values = np.random.default_rng(0).normal(size=(5, 7, 2)) + np.arange(5)[:, None, None]
    between = 7 * values.mean(1).var(0, ddof=1)
    within = ((values - values.mean(1, keepdims=True)) ** 2).sum((0, 1)) / (5 * 6)
    np.testing.assert_allclose(statistics.alikeness(values), np.mean(between / within))


@pytest.mark.parametrize(
    "size, replicas, empty",
    [(10, 8, 3), (1, 2, 1), (2, 2, 0), (16, 8, 0), (17, 8, 2), (5, 4, 1), (7, 4, 0)],
)
def test_empty_replicas_are_those_of_tensorflows_own_shares(size, replicas, empty):
    """⌈10/8⌉ = 2 for each: 2, 2, 2, 2, 2, 0, 0, 0."""
    assert empty_replicas(size, replicas) == empty


def test_two_replicas_share_a_batch_as_is_said():
    assert result_in_new_process(shares, 5) == [3, 2]
    assert result_in_new_process(shares, 1) == [1, 0]


def shares(size):
    devices.configure(cpus=2)
    strategy = strategy_of(2)
    data = tf.data.Dataset.range(size).batch(size)
    parts = next(iter(strategy.experimental_distribute_dataset(data)))
    return [int(each.shape[0]) for each in strategy.experimental_local_results(parts)]


def test_the_effective_number_counts_alike_positions_once():
    """64 positions of an image that are all the same are worth one value."""
    random = np.random.default_rng(0)

    class Call:
        means = random.normal(size=(500, 2))
        variances = np.zeros((500, 2))
        values = 500 * 64

        @property
        def variance(self):
            return self.means.var(0)

    assert abs(statistics.effective_count([Call()]) - 500) < 1
    Call.variances = np.full((500, 2), 63 * Call.means.var(0, ddof=1))
    assert abs(statistics.effective_count([Call()]) - 500 * 64) < 100
