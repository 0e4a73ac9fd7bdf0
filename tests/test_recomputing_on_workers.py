"""Tests of bnref.population.recompute on several workers: one result, of the batches of all."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import QUIET
from recomputing_worker import BATCHES, found, network

from bnref import workers

pytestmark = pytest.mark.slow
VARIANCES = pytest.mark.parametrize("variance", ["pooled", "corrected"])
LIMIT = 180  # seconds, a safety net


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    script = Path(__file__).with_name("recomputing_worker.py")
    workers.start(script, 2, str(folder), timeout=LIMIT, environment=QUIET)
    return [pickle.loads((folder / str(index)).read_bytes()) for index in range(2)]


@VARIANCES
@pytest.mark.parametrize("name", ["shards", "the same"])
def test_workers_with_shards_or_with_all_batches_find_what_one_process_finds(ran, name, variance):
    wanted, evaluated = found(network(), BATCHES, variance)
    for worker in ran:
        statistics, own = worker[name, variance]
        for one, other in zip(statistics, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(own, evaluated, rtol=1e-5)


@VARIANCES
def test_a_shard_alone_would_have_another_population(variance):
    alone, _ = found(network(), BATCHES[:7], variance)
    wanted, _ = found(network(), BATCHES, variance)
    assert np.abs(alone[0] - wanted[0]).max() > 1


def test_a_worker_without_a_batch_is_named_on_all(ran):
    said = "batches must hold at least one batch on every worker, for each norm; received none on"
    for worker in ran:
        assert f"{said} worker 1 of 2" in worker["none on one", "pooled"]
