"""Workers as an orchestrator starts them, Kubeflow for one: nothing but ``TF_CONFIG`` is set."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import QUIET

from bnref.workers._launcher import _free_ports

pytestmark = pytest.mark.slow
WORKER = str(Path(__file__).with_name("worker.py"))
LIMIT = 180  # seconds, a safety net


def run(folder, jobs):
    """Run every task of the jobs to the end; return what the first wrote, and all that was said."""
    tasks = [(job, index) for job, addresses in jobs.items() for index in range(len(addresses))]
    started = []
    for job, index in tasks:
        # As TFJob sets it, with the word for where it runs.
        config = {"cluster": jobs, "task": {"type": job, "index": index}, "environment": "cloud"}
        process = subprocess.Popen(
            [sys.executable, WORKER, str(folder / "c"), "no dropout", str(folder / "result")],
            env={**os.environ, **QUIET, "TF_CONFIG": json.dumps(config)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
    try:
        said = [process.communicate(timeout=LIMIT)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * len(tasks), said
    return pickle.loads((folder / "result").read_bytes())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A job of one worker, of which ``TF_CONFIG`` says that there are no others."""
    return run(tmp_path_factory.mktemp("alone"), {"worker": ["job-worker-0:2222"]})


def test_a_chief_and_a_worker_have_the_curve_of_one_worker(tmp_path, alone):
    chief, worker = (f"127.0.0.1:{port}" for port in _free_ports(2))
    history, weights = run(tmp_path, {"chief": [chief], "worker": [worker]})
    for name, values in alone[0].items():
        np.testing.assert_allclose(history[name], values, atol=1e-4, err_msg=name)
    for one, other in zip(weights, alone[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert np.ptp(history["test_loss"]) > 0.05, "a curve that moves"
    assert sorted(path.name for path in (tmp_path / "c").glob("*.index")) == [
        "step-24.index", "step-30.index"
    ]  # fmt: skip
