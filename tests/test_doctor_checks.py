"""Tests of the doctor's checks: a planted fault is named first, and its healthy twin is clean."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import result_in_new_process, strategy_of

import bnref
from bnref import devices, doctor
from bnref.doctor._alikeness import alikeness, by_chance
from bnref.doctor._batches import read
from bnref.doctor._case import Case
from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._epsilon import most_usual
from bnref.doctor.checks._whose_size import empty_replicas
from bnref_gallery.sick_models import FAULTS, _networks, cause_of

pytestmark = pytest.mark.slow

# They need two devices of a process in which TensorFlow has not started.
ON_REPLICAS = ["replicas_differ", "empty_replica", "mask_unsynchronizes"]


@pytest.mark.filterwarnings("ignore:layer .*mask is passed on")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_first_and_its_twin_is_clean(fault):
    found = result_in_new_process(causes, fault) if fault in ON_REPLICAS else causes(fault)
    sick, healthy = found
    assert sick[0] == cause_of(fault)
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


@pytest.mark.parametrize("times, found", [(4, []), (40, ["one_example_rules"])])
def test_an_example_of_the_tail_is_no_outlier(times, found):
    """One of 8 has most of the batch's variance at 4 deviations, too, and is no other kind."""
    x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    x[3::16] *= times
    model = keras.Sequential([keras.Input((20,)), keras.layers.BatchNormalization()])
    report = doctor.examine(model, x, batch_size=8, only=["one_example_rules"])
    assert [each.cause for each in report.findings] == found


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "exponential"])
def test_random_batches_are_never_called_alike(draw):
    """Whatever the distribution, in 40 data sets of 8 batches.

    A ratio twice as large as that of 99 regroupings is needed.
    """
    random = np.random.default_rng(0)
    for _ in range(40):
        values = getattr(random, draw)(size=(8, 16, 3))
        assert alikeness(values) < max(3, 2 * by_chance(values))


def test_alikeness_is_the_ratio_of_the_analysis_of_variance():
    values = np.random.default_rng(0).normal(size=(5, 7, 2)) + np.arange(5)[:, None, None]
    between = 7 * values.mean(1).var(0, ddof=1)
    within = ((values - values.mean(1, keepdims=True)) ** 2).sum((0, 1)) / (5 * 6)
    np.testing.assert_allclose(alikeness(values), np.mean(between / within))


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


SMALL = ["small_batches"]


@pytest.mark.parametrize(
    "together, maps, found",
    [(2, False, SMALL), (2, True, SMALL), (4, False, SMALL), (4, True, []), (16, True, [])],
)
def test_a_group_of_the_batch_is_what_must_be_large_enough(together, maps, found):
    """32 examples in groups of 2 to 16; four maps of noise are worth more than four vectors."""
    layers = [keras.Input((6, 6, 3)), keras.layers.Conv2D(4, 3)]
    layers += [] if maps else [keras.layers.Flatten()]
    model = keras.Sequential([*layers, bnref.GhostBatchNorm(groups=32 // together)])
    x = np.random.default_rng(0).normal(size=(128, 6, 6, 3)).astype("float32")
    report = doctor.examine(model, x, only=["small_batches"])
    assert [each.cause for each in report.findings] == found
    if found:
        assert f"from {together} examples at a time" in report.findings[0].evidence


@pytest.mark.parametrize(
    "groups, synchronized, replicas, parts",
    [(16, False, 1, "16"), (8, False, 1, ""), (1, False, 16, "16"), (1, True, 16, "")],
)
def test_one_value_a_channel_is_counted_in_a_group_and_in_a_replicas_share(
    groups, synchronized, replicas, parts, monkeypatch
):
    """A batch of 16 vectors: in 16 groups, or on 16 replicas, each has one."""
    layer = bnref.SyncBatchNorm() if synchronized else bnref.GhostBatchNorm(groups=groups)
    model = keras.Sequential([keras.Input((3,)), layer])
    monkeypatch.setattr(Case, "replicas", replicas)
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    report = doctor.examine(model, x, batch_size=16, only=["one_value_a_channel"])
    assert [f"in {parts} parts" in each.evidence for each in report.findings] == [True] * bool(
        parts
    )


def test_what_is_kept_of_the_passes_is_as_small_as_it_can_be():
    """Of each example a mean and a variance, as wide as the model; nothing where losses matter."""
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    x = np.random.default_rng(0).normal(size=(128, 3)).astype("float32")
    case = Case(model, read(model, "data", (x, x[:, 0] > 0), 32), None, None)
    for each in (seen for calls in case.training.calls for seen in calls):
        assert each.means.shape == (32, 8) and each.means.dtype == each.variances.dtype == "float32"
        assert each.mean.dtype == each.variance.dtype == "float64"
    for each in (case.refreshed, case.regrouped):
        assert each.calls == [] and len(each.losses) == 4 and np.isfinite(each.losses).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_virtual_batch_of_tensorflow_1_is_what_counts():
    import tf_keras

    from bnref import norms

    layer = tf_keras.layers.BatchNormalization()
    layer.virtual_batch_size = 4
    model = tf_keras.Sequential([tf_keras.Input((3,)), layer])
    assert norms.find(model)[0].examples_together(32) == 4
    layer.virtual_batch_size = None
    assert norms.find(model)[0].examples_together(32) == 32


def test_training_true_within_a_model_is_found_though_predict_overrides_it():
    base = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    inputs = keras.Input((4,))
    x = np.random.default_rng(0).normal(3, 1, (64, 4)).astype("float32")
    for options, norms in (({"training": True}, 1), ({"training": False}, 0), ({}, 0)):
        model = keras.Model(inputs, keras.layers.Dense(2)(base(inputs, **options)))
        report = doctor.examine(model, x, only=["training_at_inference"])
        assert [len(each.layers) for each in report.findings] == [norms] * bool(norms)


def test_an_epsilon_is_named_by_the_most_usual_framework_that_fits():
    """1e-6 fits nearly as well as the 1e-5 of their training; and no targets are needed."""
    (model, (x, y)), _ = FAULTS["epsilon_of_another_framework"]()
    for data in ((x, y), x):
        report = doctor.examine(model, data, only=["epsilon_of_another_framework"])
        assert "PyTorch" in report.findings[0].evidence
        assert "32 channels would be scaled otherwise" in report.findings[0].evidence


def test_of_epsilons_that_fit_alike_the_most_usual_is_named():
    assert most_usual({0.1: 2.5, 1e-3: 2.1, 1e-5: 0.04, 1e-4: 0.5, 1e-6: 0.02}) == 1e-5
    assert most_usual({0.1: 2.5, 1e-3: 2.1, 1e-5: 0.08, 1e-4: 0.5, 1e-6: 0.02}) == 1e-6


@pytest.mark.parametrize("scale, epsilon, epochs", [(0.01, 1e-3, 3), (0.1, 0.1, 3), (3e-3, 0.5, 1)])
def test_a_model_that_was_trained_briefly_with_its_own_epsilon_is_not_accused(
    scale, epsilon, epochs
):
    """Its loss would be lower by a third with a smaller ε, as that of any would."""
    x, y = _networks.classes(scale=scale)
    model = _networks.dense(epsilon=epsilon)
    _networks.fitted(model, x - x.mean(0), y, epochs=epochs)
    report = doctor.examine(model, (x - x.mean(0), y), only=["epsilon_of_another_framework"])
    assert not report.findings


def test_an_epsilon_that_no_later_norm_remembers_is_left_undecided_with_numbers():
    """√((1e-4 + 1e-3)/(1e-4 + 1e-6)) = 3.3, by the smallest of the frameworks'."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    model.layers[0].moving_variance.assign([1e-4, 1.0, 1e-4])
    model.layers[0].moving_mean.assign([1.0, 2.0, 3.0])
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    reason = doctor.examine(model, x, only=["epsilon_of_another_framework"]).undecided
    said = reason["epsilon_of_another_framework"]
    assert "2 channels would be scaled otherwise, up to 3.3 times" in said


@pytest.mark.parametrize("size, found", [(8, ["accumulated_gradients"]), (16, []), (64, [])])
def test_accumulating_over_batches_that_are_large_enough_is_sound(size, found):
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse")
    x = np.random.default_rng(0).normal(size=(256, 4)).astype("float32")
    report = doctor.examine(model, x, batch_size=size, only=["accumulated_gradients"])
    assert [each.cause for each in report.findings] == found


@pytest.mark.filterwarnings("ignore:layer .*mask is passed on")
def test_what_stands_an_empty_replica_or_a_mask_is_not_called_ill():
    assert result_in_new_process(sound_on_replicas) == [[], []]


def sound_on_replicas():
    devices.configure(cpus=2)

    class SyncMasked(bnref.SyncBatchNorm, bnref.MaskedBatchNorm):
        """The valid steps of all replicas."""

    found = []
    x = np.random.default_rng(0).normal(size=(33, 5, 4)).astype("float32")
    for norm, cause in ((SyncMasked, "mask_unsynchronizes"), (bnref.BatchNorm, "empty_replica")):
        with strategy_of(2).scope():
            inputs = keras.Input((5, 4))
            model = keras.Model(inputs, norm()(keras.layers.Masking()(inputs)))
        report = doctor.examine(model, x, only=[cause])
        found.append([each.cause for each in report.findings])
    return found


class Unnamed(keras.Model):
    """Does not name ``training``; its norm may say it by itself."""

    def __init__(self, **said):
        super().__init__()
        self.dense, self.norm = keras.layers.Dense(4), keras.layers.BatchNormalization(momentum=0.5)
        self.said = said

    def call(self, x):
        return self.norm(self.dense(x), **self.said)


class UnnamedWithItsOwnStep(Unnamed):
    """Is trained by a step that says it."""

    def train_step(self, data):
        self(data[0], training=True)
        return {"loss": 0.0}


def of_unnamed(model, x, compiled=True):
    """What is said of its norm before it is trained, and whether ``fit`` moves the population."""
    model(x)
    if compiled:
        model.compile("sgd", "mse")
    report = doctor.examine(model, x, only=["training_never_passed"])
    if compiled:
        model.fit(x, x, epochs=1, verbose=0)
    moved = bool(np.any(model.norm.moving_mean.numpy()))
    return [each.cause for each in report.findings], list(report.undecided), moved


def test_fit_says_nothing_to_a_model_whose_call_does_not_name_training():
    """What is found is what ``fit`` does; ``model(x, training=True)`` would reach the norm."""
    x = np.random.default_rng(0).normal(3, 2, size=(64, 4)).astype("float32")
    cause = "training_never_passed"
    assert of_unnamed(Unnamed(), x) == ([cause], [], False)
    assert of_unnamed(Unnamed(training=True), x) == ([], [], True)
    assert of_unnamed(UnnamedWithItsOwnStep(), x) == ([], [], True)
    assert of_unnamed(Unnamed(), x, compiled=False) == ([], [cause], False)
    model = Unnamed()
    model(x, training=True)
    model.norm.moving_mean.assign([1, 2, 3, 4])  # as an own loop would have left it
    assert of_unnamed(model, x)[:2] == ([], [])


class Columns(keras.Model):
    """A subclass that normalizes the columns of its images, where ``axis`` says so."""

    def __init__(self, axis):
        super().__init__()
        self.convolution = keras.layers.Conv2D(8, 3, use_bias=False)
        self.norm, self.head = keras.layers.BatchNormalization(axis=axis), keras.layers.Dense(4)

    def call(self, x, training=None):
        x = self.norm(self.convolution(x), training=training)
        return self.head(tf.reduce_mean(x, (1, 2)))


@pytest.mark.parametrize("axis, found", [(1, ["wrong_axis"]), (-1, [])])
def test_a_wrong_axis_is_found_in_a_subclass_whose_calls_only_a_pass_can_tell(axis, found):
    x = np.random.default_rng(0).normal(size=(128, 10, 8, 3)).astype("float32")
    model = Columns(axis)
    model(x[:2])
    report = doctor.examine(model, x, only=["wrong_axis"])
    assert [each.cause for each in report.findings] == found


def test_half_a_percent_of_the_start_is_too_much_where_the_inputs_are_seconds_since_1970():
    """50 steps at a momentum of 0.9 leave 0.5 % of a mean of 1.7e9, of some months."""
    random = np.random.default_rng(0)
    x = (1.7e9 + 5e6 * random.random((1600, 1))).astype("float32")
    y = (x[:, 0] > np.median(x)).astype("int32")
    inputs = keras.Input((1,))
    z = keras.layers.BatchNormalization(momentum=0.9)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(z))
    model.compile(
        keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    report = doctor.examine(model, (x, y), only=["few_steps"])
    assert [each.cause for each in report.findings] == ["few_steps"]
    assert "0.52 % of the start is left" in report.findings[0].evidence
