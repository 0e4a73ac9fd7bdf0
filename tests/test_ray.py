"""Ray's own trainer for TensorFlow starts the workers, and starts them again when one has died.

Ray is none of the project's dependencies: ``pip install -c .ci/constraints.txt "ray[train]"``.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import QUIET, QUIET_WITH_ALL

from bnref import workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason='Ray is not installed: pip install -c .ci/constraints.txt "ray[train]"',
    ),
]
WORKER, JOB = (Path(__file__).with_name(name) for name in ("worker.py", "ray_job.py"))
LIMIT = 300  # seconds, a safety net


@pytest.fixture
def short():
    """A folder for Ray's sockets, whose path must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def test_a_job_of_which_a_worker_dies_goes_on_and_has_the_curve_of_one_that_did_not(
    tmp_path, short
):
    undisturbed = tmp_path / "undisturbed"
    workers.start(
        WORKER, 2, str(tmp_path / "u"), "none", str(undisturbed), timeout=LIMIT, environment=QUIET
    )
    done = subprocess.run(
        [sys.executable, JOB, str(tmp_path)], timeout=LIMIT, text=True,
        env={**os.environ, **QUIET_WITH_ALL, "RAY_TMPDIR": short, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "RuntimeError: worker 0 of 2 stopped at step 15, because another work" in done.stdout
    assert "it goes on from step 12" in done.stdout
    assert "worker 0 measured 4 times" in done.stdout, "at the steps 15, 20, 25 and 30"
    (history, weights), (wanted, others) = (
        pickle.loads(file.read_bytes()) for file in (tmp_path / "result", undisturbed)
    )
    for name, values in wanted.items():
        np.testing.assert_array_equal(history[name], values, err_msg=name)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_array_equal(one, other)
