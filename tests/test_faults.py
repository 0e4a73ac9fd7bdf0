"""What happens to several workers when something fails, with real processes.

Every wait has a limit, as a safety net, and after every test no worker is left.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import QUIET, left

from bnref import workers
from bnref.workers._launcher import _free_ports

pytestmark = pytest.mark.slow
WORKER = str(Path(__file__).with_name("worker.py"))
LIMIT = 180


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "checkpoints"
    assert left(tmp_path) == []


def together(capfd, folder, fault="none", file="", grace=30):
    """Run two workers to the end; what they said, and the error of those that failed."""
    error = None
    try:
        workers.start(
            WORKER, 2, str(folder), fault, *([file] if file else []),
            timeout=LIMIT, grace=grace, environment=QUIET,
        )  # fmt: skip
    except RuntimeError as failure:
        error = str(failure)
    return error, "".join(capfd.readouterr())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    file = folder / "result"
    workers.start(WORKER, 2, str(folder / "c"), "none", str(file), timeout=LIMIT,
                  environment=QUIET)  # fmt: skip
    assert left(folder) == []
    return pickle.loads(file.read_bytes())


def assert_goes_on_as_if_undisturbed(capfd, folder, undisturbed):
    file = folder.with_name("result")
    error, _ = together(capfd, folder, "none", str(file))
    assert error is None
    history, weights = pickle.loads(file.read_bytes())
    for name, values in undisturbed[0].items():
        np.testing.assert_array_equal(history[name], values, err_msg=name)
    for one, other in zip(weights, undisturbed[1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("told", [0, 1])
def test_when_one_worker_is_told_to_end_all_do_after_one_checkpoint(
    capfd, folder, undisturbed, told
):
    """After step 15, between the checkpoints of the steps 12 and 18."""
    error, said = together(capfd, folder, f"ends {told}")
    assert sorted(error.split("; ")) == [f"worker {i} ended with status 143" for i in range(2)]
    assert said.count("SIGTERM was received: the checkpoint of step 18 is in") == 2
    assert_goes_on_as_if_undisturbed(capfd, folder, undisturbed)


@pytest.mark.parametrize("lost", [0, 1])
def test_when_a_worker_is_killed_the_other_says_so_and_a_restart_ends_as_if_nothing_had_been(
    capfd, folder, undisturbed, lost
):
    error, said = together(capfd, folder, f"dies {lost}")
    assert f"worker {lost} ended with status -9" in error
    assert f"worker {1 - lost} ended with status 1" in error, "by itself, not by the launcher"
    assert f"RuntimeError: worker {1 - lost} of 2 stopped at step 15, because" in said
    assert "another worker has stopped or cannot be reached. Start all again with the" in said
    assert "it goes on from step 12" in said

    assert_goes_on_as_if_undisturbed(capfd, folder, undisturbed)


@pytest.mark.parametrize("silent", [0, 1])
def test_when_a_worker_falls_silent_the_other_says_so_and_the_launcher_ends_it(
    capfd, folder, silent
):
    error, said = together(capfd, folder, f"stops {silent}", grace=1)
    assert error == (
        f"worker {1 - silent} ended with status 1; worker {silent} was ended 1 s later"
    )
    assert f"RuntimeError: worker {1 - silent} of 2 stopped at step 15, because" in said
    assert "it goes on from step 12" in said


def test_a_replica_with_nan_stops_all_and_is_named_and_spoils_no_checkpoint(capfd, folder):
    error, said = together(capfd, folder, "nan")
    assert "worker 0 ended with status 1" in error and "worker 1 ended with status 1" in error
    # Without the error's name, which is written by itself: the other's words may come between.
    message = "the loss is nan at step 8, on replica 1 of 2 (from 0)"
    assert said.count(message) == 2
    assert [path.name for path in sorted(folder.glob("*.index"))] == ["step-6.index"]


def config(index, ports):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


def alone(folder, index, ports, fault="late"):
    """One worker of two, started by hand."""
    done = subprocess.run(
        [sys.executable, WORKER, str(folder), fault], capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, **QUIET, "TF_CONFIG": config(index, ports)},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_never_starts_is_named_by_the_one_that_waited(folder, index):
    ports = _free_ports(2)
    status, said = alone(folder, index, ports)
    assert status == 1 and "all workers have started" not in said
    absent = f"worker {1 - index} (127.0.0.1:{ports[1 - index]})"
    assert f"TimeoutError: worker {index} of 2 waited 3 s, and did not hear from {absent}" in said


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_is_taken_is_named_before_anything_waits(folder, index):
    ports = _free_ports(2)
    with socket.create_server(("127.0.0.1", ports[index])):
        status, said = alone(folder, index, ports)
    assert status == 1
    assert f"worker {index} cannot listen at port {ports[index]}, which it was given" in said
    assert "Address already in use. Another program has it" in said


def test_a_process_that_is_left_would_be_noticed(tmp_path):
    program = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert left(tmp_path) == [process.pid]
    assert left(tmp_path) == []
