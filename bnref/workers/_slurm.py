"""The place of this process in a job step of Slurm, found by TensorFlow's own resolver.

``SlurmClusterResolver`` of TensorFlow reads which nodes a step has and how many tasks are on each.
Two of its answers are not used, as they are wrong in TensorFlow 2.21:

- Which task this is. It counts SLURM_PROCID along a list of nodes that is sorted as text, in which
  n10 comes before n2: from ten nodes on, and with ``--distribution=cyclic``, a task takes the
  address of another one's node. Here a task looks for its own node and its number there.
- The GPUs. It asks ``nvidia-smi``, and fails where there is none; where it finds fewer GPUs than
  tasks on a node, 0 on a CPU, it has no place for a task. Slurm gives each task its GPUs.

And its ports begin at 8888 for every job; here they follow from the numbers of job and step.
"""

import os

import tensorflow as tf

_NEEDED = (
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_LOCALID",
    "SLURMD_NODENAME",
)
# Below the range from which systems take ports for outgoing connections: 750 times 16.
_FIRST_PORT, _BLOCKS, _BLOCK = 20000, 750, 16
# The steps of a job take other blocks than the jobs that were started just before and after it.
_BLOCKS_APART = 101


def place() -> tuple[int, tuple[str, ...]] | None:
    """Return the number of this process and the addresses of all processes of its job step.

    Returns
    -------
    (int, tuple of str) or None
        None outside of a job step: in the shell of ``salloc``, in the script of ``sbatch``, without
        Slurm; and in a step of one task.

    Raises
    ------
    ValueError
        Some of Slurm's variables are there and others are missing, or they contradict each other.
    """
    told = os.environ
    if "SLURM_PROCID" not in told or _is_batch_script(told):
        return None
    if missing := [name for name in _NEEDED if name not in told]:
        raise ValueError(
            f"SLURM_PROCID is {told['SLURM_PROCID']!r}, without {', '.join(missing)}: this task "
            "cannot find the others. Let all of Slurm's variables through, set TF_CONFIG instead, "
            "or unset SLURM_PROCID to train with this process alone"
        )
    try:
        return _place_in_step(told)
    except (RuntimeError, ValueError) as error:
        values = ", ".join(f"{name}={told[name]}" for name in _NEEDED)
        raise ValueError(f"Slurm's variables cannot be used: {error}; received {values}") from error


def _is_batch_script(told):
    """Whether this is the script of ``sbatch``, which has a SLURM_PROCID and is in no job step."""
    in_step = {"SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"} & set(told)
    return told["SLURM_PROCID"] == "0" and "SLURM_JOB_ID" in told and not in_step


def _place_in_step(told):
    count = int(told["SLURM_STEP_NUM_TASKS"])
    if count == 1:
        return None
    first = first_port(int(told["SLURM_JOB_ID"]), int(told["SLURM_STEP_ID"]))
    # Of GPUs it is told what makes it find a place for every task, and to set nothing.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=first, gpus_per_node=count, gpus_per_task=1, auto_set_gpu=False
    )
    addresses = tuple(resolver.cluster_spec().job_tasks("worker"))
    own = f"{told['SLURMD_NODENAME']}:{first + int(told['SLURM_LOCALID'])}"
    if own not in addresses:
        raise ValueError(f"this task's address {own!r} is not one of {addresses}")
    return addresses.index(own), addresses


def first_port(job: int, step: int) -> int:
    """The port of the first task on each node; the others there take the ones after it.

    Jobs whose numbers differ by less than 750 have blocks of 16 ports that do not meet, so that two
    on one node keep apart. Where they do meet, `bnref.workers.meet` says that the port is taken,
    and the job, submitted again, has another number.
    """
    return _FIRST_PORT + _BLOCK * ((job + _BLOCKS_APART * step) % _BLOCKS)
