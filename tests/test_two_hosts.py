"""Workers on two hosts with addresses of their own, which are namespaces of the kernel."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import machines
import numpy as np
import pytest
from helpers import QUIET, left, named_pipe, wait_for

WHY_NOT = machines.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there are")]
WORKER = str(Path(__file__).with_name("worker.py"))
ADDRESSES = [f"{address}:12345" for address in machines.HOSTS.values()]
ENVIRONMENT = {**os.environ, **QUIET, "TF_CONFIG": ""}
LIMIT = 180  # seconds, a safety net


@pytest.fixture
def hosts(tmp_path):
    with machines.machines(tmp_path) as both:
        yield both
    assert left(tmp_path) == []


def begin(host, index, *words):
    """Start worker.py on a host, as one does by hand."""
    launcher = [sys.executable, "-m", "bnref.workers", "--hosts", ",".join(ADDRESSES)]
    return host.begin(
        *launcher, "--index", index, WORKER, *words,
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process):
    """Its status, and what it said."""
    said, _ = process.communicate(timeout=LIMIT)
    return process.returncode, said


def test_workers_of_two_hosts_have_the_curve_of_one_device(hosts, tmp_path):
    """Both hosts use the same port; on one host it would be taken."""
    file, one = tmp_path / "result", tmp_path / "one"
    both = [
        begin(host, index, tmp_path / "c", "no dropout", file) for index, host in enumerate(hosts)
    ]
    for status, said in map(ended, both):
        assert status == 0, said
    words = [sys.executable, WORKER, str(tmp_path / "alone"), "no dropout", str(one)]
    subprocess.run(words, env=ENVIRONMENT, check=True, timeout=LIMIT)
    (history, weights), (wanted, others) = (pickle.loads(p.read_bytes()) for p in (file, one))
    for name, values in wanted.items():
        np.testing.assert_allclose(history[name], values, atol=1e-4, err_msg=name)
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert np.ptp(history["test_loss"]) > 0.05, "a curve that moves"


def test_a_host_that_never_comes_is_named(hosts, tmp_path):
    """Nothing answers at its address, not even that nobody listens there."""
    assert hosts[0].run("ip", "link", "set", "eth0", "down").returncode == 0
    status, said = ended(begin(hosts[1], 1, tmp_path / "c", "late"))
    assert status == 1 and "all workers have started" not in said
    absent = f"worker 0 ({ADDRESSES[0]})"
    assert f"TimeoutError: worker 1 of 2 waited 3 s, and did not hear from {absent}" in said


def test_a_host_whose_power_fails_is_said_to_have_stopped(hosts, tmp_path):
    """It says no good-bye: its network is gone before its processes are."""
    waits = named_pipe(tmp_path / "c.1")
    both = [begin(host, index, tmp_path / "c", "waits 1") for index, host in enumerate(hosts)]
    wait_for(waits)
    assert hosts[1].run("ip", "link", "set", "eth0", "down").returncode == 0
    hosts[1].end()
    ended(both[1])
    status, said = ended(both[0])
    assert status == 1
    assert "RuntimeError: worker 0 of 2 stopped at step 15, because another worker has" in said
    assert "it goes on from step 12" in said
