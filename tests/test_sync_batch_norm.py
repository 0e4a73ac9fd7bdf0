"""Tests of SyncBatchNorm, PooledBatchNorm, ReplicaMeanBatchNorm: what several replicas share.

Replicas are logical CPU devices of one other process, which runs every job of this file.
"""

import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
    EPSILON,
    GAMMA,
    MEAN,
    VARIANCE,
    assert_all_close,
    batch_of,
    output_and_gradients,
    state,
)
from hypothesis import given
from hypothesis import strategies as st
from layers_under_test import CASES, CLIPPED, Job, on_replicas, some_steps

from bnref import functional

UNEQUAL = [5, 2, 9]


def job(bases, batches, options=None, extra=None):
    gradients = [batch_of(x.shape, 5 + i, x.dtype) for i, x in enumerate(batches)]
    return Job(bases, options or {}, batches, gradients, extra or [{} for _ in batches])


def replicas_of(sizes, dtype="float32"):
    """Replicas differ in size, mean and scale."""
    return [
        (batch_of((size, 2, 3), i, "float64") * (1 + i) + 3 * i).astype(dtype)
        for i, size in enumerate(sizes)
    ]


def far(sizes):
    """Means of ten thousand and of minus ten thousand deviations, which E[x²] - E[x]² loses."""
    random = np.random.default_rng(3)
    return [
        (random.normal(size=(size, 50, 3)) + [1e4, -1e4, 0.5 * i]).astype("float32")
        for i, size in enumerate(sizes)
    ]


MASKS = [{"mask": some_steps((size, 2))} for size in UNEQUAL]
MASKS[1] = {"mask": np.array([[False, False], [True, False]])}
NO_STEP = [MASKS[0], {"mask": np.zeros((2, 2), bool)}, MASKS[2]]
EMPTY = [6, 0, 8]
JOBS = {
    "unequal": job(("SyncBatchNorm",), replicas_of(UNEQUAL)),
    "float64": job(("SyncBatchNorm",), replicas_of(UNEQUAL, "float64"), {"dtype": "float64"}),
    "far": job(("SyncBatchNorm",), far([3, 1, 2])),
    "half": job(("SyncBatchNorm",), replicas_of([4, 6, 2], "float16"), {"dtype": "float16"}),
    "masked": job(("SyncBatchNorm", "MaskedBatchNorm"), replicas_of(UNEQUAL), None, MASKS),
    "renorm": job(("SyncBatchNorm", "BatchRenorm"), replicas_of(UNEQUAL), CLIPPED),
    "one": job(("SyncBatchNorm",), replicas_of([6])),
    "pooled": job(("PooledBatchNorm",), replicas_of(UNEQUAL)),
    "pooled, far": job(("PooledBatchNorm",), far([3, 1, 2])),
    "pooled, masked": job(
        ("PooledBatchNorm", "MaskedBatchNorm"), replicas_of(UNEQUAL), None, MASKS
    ),
    "mean": job(("ReplicaMeanBatchNorm",), replicas_of(UNEQUAL)),
    "sync, empty": job(("SyncBatchNorm",), replicas_of(EMPTY)),
    "pooled, empty": job(("PooledBatchNorm",), replicas_of(EMPTY)),
    "mean, empty": job(("ReplicaMeanBatchNorm",), replicas_of(EMPTY)),
    "masked, empty": job(("SyncBatchNorm", "MaskedBatchNorm"), replicas_of(UNEQUAL), None, NO_STEP),
}
KEPT = ("BatchNorm", "CumulativeBatchNorm", "DebiasedBatchNorm", "GhostBatchNorm",
        "LasagneBatchNorm", "MaskedBatchNorm", "DomainBatchNorm", "UntrackedBatchNorm",
        "FrozenBatchNorm", "ExampleWeighingBatchNorm")  # fmt: skip
for name in KEPT:
    extra = [CASES[name].extra((size, 2, 3)) for size in EMPTY]
    JOBS[f"{name}, empty"] = job((name,), replicas_of(EMPTY), CASES[name].options, extra)


@pytest.fixture(scope="module")
def ran():
    results = on_replicas(list(JOBS.values()))
    return dict(zip(JOBS, results, strict=True))


def assert_population_is_of(states, x, rtol=1e-5):
    """After one step at momentum 0.6, on every replica, and the same to the last digit."""
    mean, variance = reference.moments(x)
    for own in states:
        np.testing.assert_allclose(own["moving_mean"], 0.6 * np.array(MEAN) + 0.4 * mean, rtol)
        np.testing.assert_allclose(
            own["moving_variance"], 0.6 * np.array(VARIANCE) + 0.4 * variance, rtol
        )
        for name, value in own.items():
            np.testing.assert_array_equal(value, states[0][name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, tolerance", [("unequal", 2e-4), ("float64", 1e-12), ("one", 2e-4)]
)  # fmt: skip
def test_every_replica_has_the_outputs_gradients_and_state_of_the_global_batch(
    ran, name, tolerance
):
    job, (results, states) = JOBS[name], ran[name]
    outputs = reference.synchronized(job.batches, GAMMA, BETA, epsilon=EPSILON)
    gradients = reference.synchronized_gradient(
        job.gradients, job.batches, np.array(GAMMA), epsilon=EPSILON
    )
    for own, y, wanted in zip(results, outputs, gradients, strict=True):
        assert_all_close(own, [y, *wanted], rtol=tolerance, atol=tolerance)
    rtol = 1e-12 if name == "float64" else 1e-5
    assert_population_is_of(states, np.concatenate(job.batches), rtol)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["far", "pooled, far"])
def test_the_variance_keeps_its_digits_at_a_mean_of_ten_thousand_deviations(ran, name):
    job, (results, states) = JOBS[name], ran[name]
    x = np.concatenate(job.batches)
    _, variance = reference.moments(x)
    assert np.all((variance > 0.8) & (variance < 1.3))
    # Each float32 near 10⁴ is itself known to 5e-4; the mean of 50 or 150 of them as well.
    assert_population_is_of(states, x, rtol=1e-3)
    if name == "far":
        outputs = reference.synchronized(job.batches, GAMMA, BETA, epsilon=EPSILON)
        for (y, *_), wanted in zip(results, outputs, strict=True):
            np.testing.assert_allclose(y, wanted, atol=5e-3)


@pytest.mark.slow
def test_half_precision_replicas_share_float32_statistics(ran):
    job, (results, states) = JOBS["half"], ran["half"]
    assert results[0][0].dtype == results[0][1].dtype == "float16"
    assert {value.dtype for value in states[0].values()} == {np.dtype("float32")}
    assert_population_is_of(states, np.concatenate(job.batches), 1e-5)


@pytest.mark.slow
def test_with_masks_the_replicas_share_the_steps_that_are_there(ran):
    """One replica has a single step, so that equal weights would show."""
    job, (results, states) = JOBS["masked"], ran["masked"]
    masks = [each["mask"] for each in job.extra]
    kept = [x[mask] for x, mask in zip(job.batches, masks, strict=True)]
    dys = [dy[mask] for dy, mask in zip(job.gradients, masks, strict=True)]
    outputs = reference.synchronized(kept, GAMMA, BETA, epsilon=EPSILON)
    gradients = reference.synchronized_gradient(dys, kept, np.array(GAMMA), epsilon=EPSILON)
    for (y, dx, *sums), mask, wanted_y, (wanted_dx, *wanted) in zip(
        results, masks, outputs, gradients, strict=True
    ):
        actual = [y[mask], dx[mask], *sums]
        assert_all_close(actual, [wanted_y, wanted_dx, *wanted], rtol=2e-4, atol=2e-4)
        assert not y[~mask].any() and not dx[~mask].any()
    assert_population_is_of(states, np.concatenate(kept))


@pytest.mark.slow
def test_with_renormalization_r_and_d_are_those_of_the_global_batch(ran):
    job, (results, states) = JOBS["renorm"], ran["renorm"]
    x = np.concatenate(job.batches)
    sigma = np.sqrt(np.array(VARIANCE) + EPSILON)
    r, d = reference.renorm_correction(x, MEAN, sigma, **CLIPPED, epsilon=EPSILON)
    outputs = reference.batch_renorm(x, GAMMA, BETA, r, d, epsilon=EPSILON)
    dx, *_ = reference.batch_renorm_gradient(
        np.concatenate(job.gradients), x, np.array(GAMMA), r, d, epsilon=EPSILON
    )
    for i, wanted in enumerate((outputs, dx)):
        actual = np.concatenate([own[i] for own in results])
        np.testing.assert_allclose(actual, wanted, rtol=2e-4, atol=2e-4)
    assert_population_is_of(states, x)
    assert [int(own["steps"]) for own in states] == [1, 1, 1]


@pytest.mark.slow
def test_pooled_replicas_normalize_by_their_own_batch_and_remember_the_global_one(ran):
    """The global variance holds the variance of the replicas' means, which no replica's own has."""
    job, (results, states) = JOBS["pooled"], ran["pooled"]
    for own, x, dy in zip(results, job.batches, job.gradients, strict=True):
        y = reference.batch_norm(x, GAMMA, BETA, epsilon=EPSILON)
        gradient = reference.batch_norm_gradient(dy, x, np.array(GAMMA), epsilon=EPSILON)
        assert_all_close(own, [y, *gradient], rtol=2e-4, atol=2e-4)
    assert_population_is_of(states, np.concatenate(job.batches))
    within = np.mean([reference.moments(x)[1] for x in job.batches], 0)
    total = reference.moments(np.concatenate(job.batches))[1]
    assert np.all(np.abs(total / within - 1) > 0.05)


@pytest.mark.slow
def test_pooled_masked_replicas_weigh_by_the_steps_that_are_there(ran):
    job, (_, states) = JOBS["pooled, masked"], ran["pooled, masked"]
    kept = [x[w["mask"]] for x, w in zip(job.batches, job.extra, strict=True)]
    assert_population_is_of(states, np.concatenate(kept))


class Replica:
    """What `over_replicas` asks of the replica that it is called on."""

    def __init__(self, posted, index):
        self.posted, self.num_replicas_in_sync = posted, len(posted)
        self.replica_id_in_sync_group = index

    def all_reduce(self, how, own):
        assert how == "sum"
        others = [i for i in range(len(self.posted)) if i != self.replica_id_in_sync_group]
        assert not tf.gather(own, others).numpy().any(), "it fills the row of another"
        return tf.tensor_scatter_nd_add(own, np.reshape(others, (-1, 1)), self.posted[others])


@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=6), st.floats(0, 4), st.integers(0, 2**32 - 1)
)
def test_the_moments_do_not_depend_on_how_the_examples_are_split_over_replicas(sizes, digits, seed):
    """Channels of scale 1, 10 and 0.1, up to 10⁴ of their deviations from zero."""
    random, scale = np.random.default_rng(seed), np.array([1.0, 10.0, 0.1])
    x = (random.normal(size=(sum(sizes), 3)) + [10**digits, -(10**digits), 0]) * scale
    own = [functional.moments(each) for each in np.split(x, np.cumsum(sizes)[:-1])]
    posted = np.array([[np.full((1, 3), m.count), m.mean, m.variance] for m in own])
    for index, each in enumerate(own):
        with pytest.MonkeyPatch.context() as patch:
            replica = Replica(posted, index)
            patch.setattr(tf.distribute, "get_replica_context", lambda r=replica: r)
            mean, variance, count, *_ = functional.over_replicas(each)
            np.testing.assert_allclose(mean[0], np.mean(x, 0), rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(variance[0], np.var(x, 0), rtol=1e-9, atol=1e-18)
            assert count.numpy().item() == sum(sizes)


def test_with_one_replica_and_outside_of_any_the_moments_are_passed_through(batch):
    moments = functional.moments(batch((6, 3)))
    assert functional.over_replicas(moments) is moments
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        assert functional.over_replicas(moments) is moments


@pytest.mark.slow
def test_the_mean_of_the_replicas_weighs_them_alike_and_leaves_out_what_lies_between(ran):
    job, (results, states) = JOBS["mean"], ran["mean"]
    own = [reference.moments(x) for x in job.batches]
    for own_state in states:
        for k, (name, start) in enumerate([("moving_mean", MEAN), ("moving_variance", VARIANCE)]):
            wanted = 0.6 * np.array(start) + 0.4 * np.mean([each[k] for each in own], 0)
            np.testing.assert_allclose(own_state[name], wanted, rtol=1e-5)
            np.testing.assert_array_equal(own_state[name], states[0][name])
    for own, x in zip(results, job.batches, strict=True):
        y = reference.batch_norm(x, GAMMA, BETA, epsilon=EPSILON)
        np.testing.assert_allclose(own[0], y, rtol=2e-4, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sync, empty", "pooled, empty", "masked, empty"])
def test_a_replica_without_an_example_weighs_nothing_among_the_others(ran, name):
    """Its outputs and gradients have no example either, and its state is that of the others."""
    job, (results, states) = JOBS[name], ran[name]
    masks = [each.get("mask", np.ones(len(x), bool)) for each, x in zip(job.extra, job.batches)]  # noqa: B905
    kept = [x[mask] for x, mask in zip(job.batches, masks, strict=True)]
    dys = [dy[mask] for dy, mask in zip(job.gradients, masks, strict=True)]
    assert [len(each) for each in kept][1] == 0
    assert_population_is_of(states, np.concatenate([kept[0], kept[2]]))
    assert all(np.isfinite(each).all() for own in results for each in own)
    assert [len(own[0]) for own in results] == [len(x) for x in job.batches]
    assert not np.any(results[1][2]) and not np.any(results[1][3]), "no part in dγ and dβ"
    if name == "pooled, empty":
        return
    filled = [kept[0], kept[2]]
    outputs = reference.synchronized(filled, GAMMA, BETA, epsilon=EPSILON)
    gradients = reference.synchronized_gradient(
        [dys[0], dys[2]], filled, np.array(GAMMA), epsilon=EPSILON
    )
    for i, wanted_y, (wanted_dx, *sums) in zip((0, 2), outputs, gradients, strict=True):
        y, dx, *own_sums = results[i]
        actual = [y[masks[i]], dx[masks[i]], *own_sums]
        assert_all_close(actual, [wanted_y, wanted_dx, *sums], rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_the_mean_of_the_replicas_leaves_out_one_without_an_example(ran):
    job, (_, states) = JOBS["mean, empty"], ran["mean, empty"]
    own = [reference.moments(job.batches[i]) for i in (0, 2)]
    for own_state in states:
        mean, variance = (np.mean(each, 0) for each in zip(*own, strict=True))
        np.testing.assert_allclose(
            own_state["moving_mean"], 0.6 * np.array(MEAN) + 0.4 * mean, 1e-5
        )
        np.testing.assert_allclose(
            own_state["moving_variance"], 0.6 * np.array(VARIANCE) + 0.4 * variance, 1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_a_replica_without_an_example_remembers_nothing_and_the_others_as_ever(ran, name):
    results, states = ran[f"{name}, empty"]
    fresh = state(CASES[name].make())
    for variable, value in states[1].items():
        np.testing.assert_array_equal(value, fresh[variable], err_msg=variable)
    assert results[1][0].shape == results[1][1].shape == (0, 2, 3)
    assert all(np.isfinite(each).all() for own in results for each in own)
    for i in (0, 2):
        alone = CASES[name].make()
        _, _, batches, gradients, extra = JOBS[f"{name}, empty"]
        wanted = output_and_gradients(alone, batches[i], gradients[i], **extra[i])
        assert_all_close(results[i], wanted)
        for variable, value in state(alone).items():
            np.testing.assert_allclose(states[i][variable], value, rtol=1e-5, err_msg=variable)
