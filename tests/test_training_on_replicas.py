"""Tests of bnref.training on several replicas, which are logical devices of another process."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import AVERAGED, in_new_process
from replicas_training import LAYERS, OTHER, Y

pytestmark = pytest.mark.slow
SEVERAL = pytest.mark.parametrize("replicas", [2, 3])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    file = tmp_path_factory.mktemp("replicas") / "results"
    in_new_process(str(Path(__file__).with_name("replicas_training.py")), str(file))
    return pickle.loads(file.read_bytes())


def distance(one, other):
    return max(np.max(np.abs(a - b)) for a, b in zip(one, other, strict=True))


@SEVERAL
@pytest.mark.parametrize(
    "name, tolerance",
    [("whole", 1e-5), ("one example", 1e-5), ("accumulated", 1e-5), ("penalized", 1e-5),
     ("float16", 5e-3), ("clipnorm", 1e-5), ("global_clipnorm", 1e-5), ("clipvalue", 1e-5),
     ("float16, clipped", 5e-3), ("schedule", 1e-5), ("two losses", 1e-5),
     pytest.param("added", 1e-5, marks=AVERAGED),
     pytest.param("added, accumulated", 1e-5, marks=AVERAGED)],
)  # fmt: skip
def test_synchronized_replicas_have_the_curve_and_the_weights_of_one_device(
    ran, name, tolerance, replicas
):
    (one, weights), (several, others) = ran[name, 1], ran[name, replicas]
    np.testing.assert_array_equal(one["step"], several["step"])
    np.testing.assert_allclose(several["loss"][1:], one["loss"][1:], atol=tolerance)
    assert distance(weights, others) < 10 * tolerance
    assert np.ptp(one["loss"][1:]) > 100 * tolerance, "a curve that moves"


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm", "clipvalue", "schedule"])
def test_clipping_and_schedules_are_not_ignored(ran, name):
    away = np.abs(ran[name, 3][0]["loss"] - ran["not clipped", 3][0]["loss"])
    assert np.max(away[2:]) > 1e-2 and (name == "schedule" or away[1] < 1e-5)


def test_in_float16_the_bound_is_that_of_float32(ran):
    half, single = (ran[name, 2][0]["loss"] for name in ("float16, clipped", "global_clipnorm"))
    np.testing.assert_allclose(half[1:], single[1:], rtol=0.02)


def test_several_losses_are_added_up(ran):
    for replicas in (1, 2, 3):
        several, both = (ran[name, replicas][0]["loss"] for name in ("two losses", "both at once"))
        np.testing.assert_allclose(several[1:], both[1:], rtol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_in_float16_with_a_scaled_loss_the_curve_is_that_of_float32(ran, replicas):
    half, single = ran["float16", replicas][0]["loss"], ran["float32", replicas][0]["loss"]
    np.testing.assert_allclose(half[1:], single[1:], rtol=0.02)
    assert np.ptp(single[1:]) > 0.1


@SEVERAL
def test_replicas_that_normalize_by_their_own_batch_have_another_curve(ran, replicas):
    """So the agreement above is the layer's, and the test would notice its absence."""
    (one, _), (several, _) = ran["each its own", 1], ran["each its own", replicas]
    assert np.max(np.abs(one["loss"] - several["loss"])[1:]) > 1e-2


def test_the_penalty_counts_once_and_accumulation_and_carry_are_not_ignored(ran):
    whole = ran["whole", 1][0]["loss"]
    assert ran["penalized", 1][0]["loss"][1] - whole[1] > 0.01
    for other in ("accumulated", "one example"):
        assert np.max(np.abs(ran[other, 1][0]["loss"][1:7] - whole[1:])) > 1e-3


def reference_of(logits):
    shifted = np.float64(logits) - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(60), Y[:60]]
    return losses.mean(), np.mean(logits.argmax(1) == Y[:60])


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_saved_is_what_was_evaluated_after_replicas_saw_different_data(ran, name):
    found = ran["two sources", name]
    wanted = reference_of(found["logits of the loaded"])
    np.testing.assert_allclose(found["evaluated"], wanted, rtol=1e-5)
    np.testing.assert_allclose(found["exchanged"], wanted, rtol=1e-5)
    for each in found["replicas"]:
        np.testing.assert_array_equal(each[0], each[1], err_msg="after the evaluation they agree")
    np.testing.assert_array_equal(found["replicas"][0][0], found["replicas before"][0])
    own = name in ("BatchNorm", "BatchRenorm", "CumulativeBatchNorm")
    differ = np.abs(np.subtract(*found["replicas before"])).max()
    assert differ > 0.1 if own else differ == 0


def test_the_sources_differ_so_that_whose_population_is_used_shows(ran):
    """Evaluated by its own population, the second replica's half would have another loss."""
    assert np.abs(OTHER[:30].mean(0) - OTHER[30:].mean(0)).max() > 5
    losses = [ran["two sources", name]["evaluated"][0] for name in LAYERS[:4]]
    assert np.ptp(losses) > 0.01


@pytest.mark.parametrize(
    "name, said",
    [
        ("optimizer", "optimizer must be made in the scope of the model's strategy; received Adam"),
        ("jit_compile", "jit_compile must be False with several replicas"),
        ("loss", "loss must give one number an example"),
        ("gradient_accumulation_steps", "must not use gradient_accumulation_steps with several"),
    ],
)
def test_what_several_replicas_cannot_do_is_refused_by_name(ran, name, said):
    assert said in ran["refusals"][name]


def test_a_resumed_run_on_replicas_ends_like_one_that_was_not_interrupted(ran):
    """The layer's training uses its population, which differs between the replicas."""
    (one, weights), (two, others) = ran["resumed"]["whole"], ran["resumed"]["parts"]
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("replica", [0, 1])
def test_a_step_in_which_one_replica_overflows_is_left_out_by_all(ran, replica):
    """Keras's LossScaleOptimizer looks at one replica's gradients; the next steps train again."""
    before, spoilt, *after = ran["overflow"][replica]
    for one, other in zip(before, spoilt, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(np.isfinite(each).all() for each in after[-1])
    assert max(np.abs(a - b).max() for a, b in zip(after[-1], before, strict=True)) > 1e-3


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_function_on_replicas_gets_its_own_entry_of_each_column(ran, replicas):
    found = ran["on replicas", replicas]
    for shares, outcomes, remembered in found["seen"]:
        assert len(outcomes) == len(remembered) == replicas
        for i, (share, (mean, size, none), own) in enumerate(
            zip(shares, outcomes, remembered, strict=True)
        ):
            np.testing.assert_allclose(mean, share.mean(0) * (i + 1), rtol=1e-4, atol=1e-4)
            assert size == len(share) and none is None
            np.testing.assert_allclose(own, share.mean(0), rtol=1e-4, atol=1e-4)
    assert found["nothing"] == [None] * replicas
    assert f"an entry a replica, {replicas} in all; received {replicas + 1}" in found["wrong"]


def test_a_mask_that_is_false_on_all_replicas_leaves_the_population(ran):
    means, variances = ran["nothing to read"][:2], ran["nothing to read"][2:]
    assert not np.any(means) and np.all(np.equal(variances, 1)) and len(variances) == 2


def test_a_convolution_is_evaluated_alike_where_a_last_batch_would_be_of_one_image(ran):
    """TensorFlow's convolution on CPUs gives an empty batch another shape."""
    for several in ran["images"][1:]:
        np.testing.assert_allclose(several, ran["images"][0], rtol=1e-5)
