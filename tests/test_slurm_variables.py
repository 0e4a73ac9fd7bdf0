"""Tests of a worker's place by Slurm's variables, without Slurm; tests/test_slurm.py has Slurm."""

import json

import pytest
import tensorflow as tf

from bnref import workers
from bnref.training import _strategy
from bnref.workers import _slurm
from bnref.workers._slurm import first_port

resolvers = tf.distribute.cluster_resolver
ALONE = (0, ("localhost:0",))
TWO_NODES = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_LOCALID": "0",
    "SLURMD_NODENAME": "n2",
}
PORT = first_port(7, 0)


@pytest.fixture(autouse=True)
def told(monkeypatch):
    """Sets Slurm's variables, and no others."""
    monkeypatch.delenv("TF_CONFIG", raising=False)

    def tell(variables):
        for name in TWO_NODES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    tell({})
    return tell


def test_without_slurm_a_process_is_alone():
    assert workers.task() == ALONE


def test_a_task_of_two_nodes_finds_both(told):
    told(TWO_NODES)
    assert workers.task() == (1, (f"n1:{PORT}", f"n2:{PORT}"))


def test_tasks_of_one_node_have_ports_one_after_the_other(told):
    told(
        TWO_NODES
        | {"SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NUM_TASKS": "3"}
        | {"SLURM_LOCALID": "1", "SLURMD_NODENAME": "n1"}
    )
    assert workers.task() == (1, (f"n1:{PORT}", f"n1:{PORT + 1}", f"n2:{PORT}"))


@pytest.mark.parametrize("number", range(1, 13))
def test_every_one_of_twelve_nodes_has_its_own_address(told, number):
    """A list that is sorted as text has n10 before n2, so SLURM_PROCID is no number in it."""
    told(
        TWO_NODES
        | {"SLURM_STEP_NODELIST": "n[1-12]", "SLURM_STEP_TASKS_PER_NODE": "1(x12)"}
        | {"SLURM_STEP_NUM_TASKS": "12", "SLURM_PROCID": f"{number - 1}"}
        | {"SLURMD_NODENAME": f"n{number}"}
    )
    own = workers.task()
    assert own.addresses[own.index] == f"n{number}:{PORT}"
    assert len(set(own.addresses)) == 12


def test_tensorflows_resolver_alone_still_takes_another_nodes_address(told):
    """When this fails TensorFlow is mended, and `bnref.workers` can do with less of its own."""
    told(
        TWO_NODES
        | {"SLURM_STEP_NODELIST": "n[1-12]", "SLURM_STEP_TASKS_PER_NODE": "1(x12)"}
        | {"SLURM_STEP_NUM_TASKS": "12"}
    )
    found = resolvers.SlurmClusterResolver(gpus_per_node=1, gpus_per_task=1, auto_set_gpu=False)
    cluster = found.cluster_spec()
    _, own = found.get_task_info()
    assert cluster.task_address("worker", own) == "n10:8888", "it is n2"
    with pytest.raises(ValueError, match="must not be zero"):
        resolvers.SlurmClusterResolver(gpus_per_node=0).cluster_spec()


SHELL_OF_SALLOC = {name: TWO_NODES[name] for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST")}


@pytest.mark.parametrize(
    "variables",
    [
        SHELL_OF_SALLOC,
        SHELL_OF_SALLOC | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURMD_NODENAME": "n1"},
        TWO_NODES | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"},
    ],
    ids=["shell of salloc", "script of sbatch", "step of one task"],
)
def test_what_is_no_step_of_several_tasks_is_alone(told, variables):
    told(variables)
    assert workers.task() == ALONE
    assert workers.meet(timeout=0) is None


def test_tf_config_wins(told, monkeypatch):
    told(TWO_NODES)
    cluster = {"worker": ["a:1", "b:1", "c:1"]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": 2}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert workers.task() == (2, ("a:1", "b:1", "c:1"))
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert workers.task() == ALONE
    monkeypatch.setenv("TF_CONFIG", "")
    assert workers.task() == (1, (f"n1:{PORT}", f"n2:{PORT}"))


@pytest.mark.parametrize("name", _slurm._NEEDED)
def test_a_variable_that_is_missing_is_named(told, name):
    told({each: value for each, value in TWO_NODES.items() if each != name})
    with pytest.raises(ValueError, match=f"SLURM_PROCID is '1', without {name}: this task cannot"):
        workers.task()


def test_a_number_without_anything_else_is_refused(told):
    """Such as it comes into a container; the first task would train alone, and the others too."""
    for number in ("0", "1"):
        told({"SLURM_PROCID": number})
        with pytest.raises(ValueError, match="without SLURM_JOB_ID, .*, SLURMD_NODENAME: this"):
            workers.task()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"SLURMD_NODENAME": "n3"}, "this task's address 'n3:[0-9]+' is not one of"),
        ({"SLURM_LOCALID": "1"}, "this task's address 'n2:[0-9]+' is not one of"),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, "Requested 2 tasks but only 1 were assigned"),
        ({"SLURM_STEP_NODELIST": "n[1-"}, "Invalid hostlist format"),
        ({"SLURM_STEP_NUM_TASKS": "two"}, "invalid literal"),
    ],
)
def test_variables_that_contradict_each_other_are_refused_with_what_they_are(told, wrong, said):
    told(TWO_NODES | wrong)
    with pytest.raises(ValueError, match=f"Slurm's variables cannot be used: {said}") as error:
        workers.task()
    (name, value), = wrong.items()  # fmt: skip
    assert f"{name}={value}" in str(error.value)


def test_jobs_that_run_at_the_same_time_have_ports_of_their_own():
    """Sixteen a node, for numbers less than 750 apart; and the steps of one job."""
    blocks = [first_port(job, 0) for job in range(1000, 1750)]
    assert len(set(blocks)) == 750 and {port % 16 for port in blocks} == {first_port(1, 0) % 16}
    assert min(blocks) >= 20000 and max(blocks) + 16 <= 32000
    near = {first_port(1000 + job, 0) for job in range(-50, 50)}
    assert not near & {first_port(1000, step) for step in range(1, 7)}


def test_tensorflow_is_told_the_workers_and_the_gpus_that_this_one_sees(told, monkeypatch):
    told(TWO_NODES)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind] * 2)
    found = _strategy._resolver()
    assert found.cluster_spec().as_dict() == {"worker": [f"n1:{PORT}", f"n2:{PORT}"]}
    assert (found.task_type, found.task_id) == ("worker", 1)
    assert found.num_accelerators() == {"GPU": 2}
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert _strategy._resolver() is None, "TensorFlow reads it by itself"
