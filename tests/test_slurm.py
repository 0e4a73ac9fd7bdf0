"""Slurm itself, on two nodes: jobs as people start them, and what happens when something fails."""

import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slurm_cluster
from helpers import QUIET, left, named_pipe, wait_for

from bnref import workers

WHY_NOT = slurm_cluster.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is one")]
WORKER = str(Path(__file__).with_name("worker.py"))
LIMIT = 180  # seconds, a safety net
SOON = 30  # seconds after a task is killed, by when its job has ended


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.cluster(folder, {**os.environ, **QUIET, "TF_CONFIG": ""}) as found:
        yield found
    assert left(folder) == []


def place(environment, monkeypatch):
    """What `bnref.workers.task` finds in a process with the Slurm of this environment."""
    with monkeypatch.context() as told:
        for name in [each for each in os.environ if each.startswith("SLURM")]:
            told.delenv(name)
        for name, value in environment.items():
            if name.startswith("SLURM"):
                told.setenv(name, value)
        told.setenv("TF_CONFIG", "")
        return workers.task()


def environment_in(file):
    """The variables that ``env -0`` wrote to a file."""
    pairs = [each.partition("=") for each in file.read_text().split("\0") if each]
    return {name: value for name, _, value in pairs}


def environments(cluster, folder, *words):
    """The variables of each task of a job step."""
    command = f"env -0 > {folder}/env-$SLURM_PROCID"
    done = cluster.run("srun", *words, "sh", "-c", command, timeout=LIMIT)
    assert done.returncode == 0, done.stdout
    return [environment_in(file) for file in sorted(folder.glob("env-*"))]


@pytest.mark.parametrize(
    "words, tasks",
    [
        ("--nodes=2", 2),
        ("--nodes=2 --ntasks=4 --distribution=cyclic", 4),
        ("--nodes=2 --ntasks=4 --distribution=block", 4),
        ("--nodes=2 --ntasks=3", 3),
        ("--nodes=1 --ntasks=2", 2),
        ("--ntasks=1 --nodelist=n2", 1),
    ],
)
def test_the_tasks_of_a_job_step_agree_on_who_is_where(
    cluster, tmp_path, monkeypatch, words, tasks
):
    found = environments(cluster, tmp_path, *words.split())
    places = [place(each, monkeypatch) for each in found]
    assert sorted(each.index for each in places) == list(range(tasks))
    assert len({each.addresses for each in places}) == 1
    assert len(set(places[0].addresses)) == tasks
    if tasks > 1:
        for environment, own in zip(found, places, strict=True):
            host, _, port = own.addresses[own.index].partition(":")
            assert host == environment["SLURMD_NODENAME"] and 20000 <= int(port) < 32000


def test_two_jobs_on_one_node_have_other_ports(cluster, tmp_path, monkeypatch):
    addresses = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        first, _ = environments(cluster, folder, "--nodes=1", "--ntasks=2", "--nodelist=n1")
        addresses += place(first, monkeypatch).addresses
    assert len(set(addresses)) == 4


def test_the_shell_of_an_allocation_and_the_script_of_a_batch_job_train_alone(
    cluster, tmp_path, monkeypatch
):
    """Both see a SLURM_JOB_NODELIST of two nodes, and the second a SLURM_PROCID."""
    shell, script = tmp_path / "shell", tmp_path / "script"
    cluster.run("salloc", "--nodes=2", "sh", "-c", f"env -0 > {shell}", timeout=LIMIT)
    ended = named_pipe(tmp_path / "ended")
    wrap = f"--wrap=env -0 > {script}; echo > {ended}"
    cluster.run("sbatch", "--nodes=2", "--output=/dev/null", wrap, timeout=LIMIT)
    wait_for(ended)
    for file in (shell, script):
        found = environment_in(file)
        assert found["SLURM_JOB_NODELIST"] == "n[1-2]"
        assert place(found, monkeypatch).addresses == ("localhost:0",)


def command(folder, fault="none", file=""):
    return [sys.executable, WORKER, str(folder), fault, *([str(file)] if file else [])]


def train(cluster, *words):
    """The status of a job step, and all that its tasks said."""
    done = cluster.run("srun", *words, timeout=LIMIT)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    file = folder / "result"
    status, said = train(cluster, "--nodes=2", *command(folder / "c", file=file))
    assert status == 0, said
    return pickle.loads(file.read_bytes())


def assert_same_result(file, wanted):
    """History and weights are equal to the last bit."""
    history, weights = pickle.loads(file.read_bytes())
    assert history.keys() == wanted[0].keys()
    for name, values in wanted[0].items():
        np.testing.assert_array_equal(history[name], values, err_msg=name)
    for one, other in zip(weights, wanted[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_tasks_on_one_node_train_as_two_nodes_do(cluster, tmp_path, undisturbed):
    file = tmp_path / "result"
    status, said = train(cluster, "--nodes=1", "--ntasks=2", *command(tmp_path / "c", file=file))
    assert status == 0, said
    assert_same_result(file, undisturbed)


def test_a_killed_task_ends_the_job_and_the_same_command_ends_as_if_nothing_had_been(
    cluster, tmp_path, undisturbed
):
    folder, file = tmp_path / "c", tmp_path / "result"
    status, said = train(cluster, "--nodes=2", *command(folder, "dies 1"))
    assert time.time() - Path(f"{folder}.fault").stat().st_mtime < SOON
    assert status != 0
    assert "n2: task 1: Killed" in said, "by Slurm"
    assert "RuntimeError: worker 0 of 2 stopped at step 15, because another worker has st" in said
    assert "it goes on from step 12" in said
    status, said = train(cluster, "--nodes=2", *command(folder, file=file))
    assert status == 0, said
    assert "worker 0 measured 4 times" in said, "at the steps 15, 20, 25 and 30"
    assert_same_result(file, undisturbed)


def test_a_cancelled_job_leaves_a_checkpoint(cluster, tmp_path):
    """Slurm sends SIGTERM to the processes of the tasks themselves."""
    folder, output, waits = tmp_path / "c", tmp_path / "output", named_pipe(tmp_path / "c.1")
    with output.open("w") as said:
        job = cluster.begin(
            "srun", "--nodes=2", "--job-name=cancelled", *command(folder, "waits 1"),
            stdout=said, stderr=said,
        )  # fmt: skip
        wait_for(waits)
        assert cluster.run("scancel", "--name=cancelled").returncode == 0
        assert job.wait(LIMIT) != 0
    message = "SIGTERM was received: the checkpoint of step 18 is in"
    assert output.read_text().count(message) == 2, output.read_text()
    assert (folder / "step-18.index").exists()


def test_a_requeued_job_goes_on_by_itself(cluster, tmp_path, undisturbed):
    """As after a preemption: SIGTERM, and the same script once more."""
    folder, file, output = tmp_path / "c", tmp_path / "result", tmp_path / "output"
    waits, ended = named_pipe(tmp_path / "c.1"), named_pipe(tmp_path / "ended")
    words = " ".join(f"'{word}'" for word in command(folder, "waits 1", file))
    job = cluster.run(
        "sbatch", "--parsable", "--nodes=2", "--requeue", f"--output={output}",
        "--open-mode=append", f"--wrap=srun {words} && echo > {ended}", timeout=LIMIT,
    ).stdout.strip()  # fmt: skip
    wait_for(waits)
    assert cluster.run("scontrol", "requeue", job).returncode == 0
    wait_for(ended)
    said = output.read_text()
    assert said.count("the checkpoint of step 18 is in") == 2, said
    assert "worker 0 measured 3 times" in said, "at the steps 20, 25 and 30"
    assert_same_result(file, undisturbed)
