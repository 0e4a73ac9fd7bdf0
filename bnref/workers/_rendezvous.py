"""Who the other workers are, and a wait for them that ends.

Kept beside TensorFlow's own rendezvous, which was seen to wait for over ten minutes for a worker
that never starts: no public name sets a limit to it, and it does not say who is missing. And
``TFConfigClusterResolver`` reads ``TF_CONFIG`` without a look at it: a task that is not in its
cluster, or two at one address, come out as such a wait.
"""

import json
import os
import socket
import time
from typing import NamedTuple

from bnref.workers import _slurm

_PAUSE = 0.05
_ALONE = (0, ("localhost:0",))


class Task(NamedTuple):
    """Which worker this process is, and where all are.

    Attributes
    ----------
    index : int
        0 for the first, which writes checkpoints.
    addresses : tuple of str
        ``host:port`` of every worker.
    """

    index: int  # type: ignore[assignment]  # a tuple's method is not needed
    addresses: tuple[str, ...]


def task() -> Task:
    """Return this process's place among the workers, as ``TF_CONFIG`` or Slurm says it.

    Returns
    -------
    Task
        By ``TF_CONFIG`` where it is set and not empty; else by the variables of Slurm's job step,
        in which a task has the number of its place among the nodes, SLURM_PROCID as a rule. With
        one address if neither names another worker: the shell of ``salloc`` and the script of
        ``sbatch`` are no job step.

    Raises
    ------
    ValueError
        ``TF_CONFIG`` is no JSON, has another job than "worker" or "chief", an address without a
        port, one address for two tasks, or a task that is not in its cluster; or only some of
        Slurm's variables are there.
    """
    if text := os.environ.get("TF_CONFIG"):
        return _task_of_tf_config(text)
    index, addresses = _slurm.place() or _ALONE
    return Task(index, addresses)


def _task_of_tf_config(text):
    """As TensorFlow reads it, but refused early if it cannot be used."""
    try:
        config = json.loads(text)
        cluster, own = config.get("cluster") or {}, config.get("task") or {}
        place, jobs = (own.get("type", "worker"), int(own.get("index", 0))), ("chief", "worker")
        places = [(job, i) for job in jobs for i in range(len(cluster.get(job, ())))]
        addresses = tuple(cluster[job][i] for job, i in places)
        if unknown := sorted(set(cluster) - set(jobs)):
            raise ValueError(f"its cluster has the job {unknown[0]!r}; accepted are {jobs}")
        if wrong := [each for each in addresses if not _is_address(each)]:
            raise ValueError(f"the address {wrong[0]!r} is not host:port")
        if twice := [each for each in addresses if addresses.count(each) > 1]:
            raise ValueError(f"two tasks have the address {twice[0]!r}; each needs its own port")
        if places and place not in places:
            raise ValueError(f"its task {place} is not one of {places}")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG cannot be used: {error}; received {text!r}") from error
    return Task(places.index(place), addresses) if places else Task(*_ALONE)


def _is_address(text):
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def meet(*, timeout: float = 60.0) -> None:
    """Wait until every worker has started; TensorFlow itself would wait for ever.

    The first worker listens at its address until all others have called it, and then lets all go
    on. Called by `bnref.training.strategy`, before TensorFlow takes the addresses over.

    Parameters
    ----------
    timeout : float
        Seconds to wait, counted from this call.

    Raises
    ------
    OSError
        This worker's port is taken.
    TimeoutError
        Some workers are missing; the message says which.
    """
    own = task()
    if len(own.addresses) == 1:
        return
    ends = time.monotonic() + timeout
    with _listening(own) as listener:
        if own.index == 0:
            _gather(listener, own, ends, timeout)
    if own.index:
        _report(own, ends, timeout)


def _listening(own):
    """A socket at this worker's own address, as a test that it is free."""
    port = int(own.addresses[own.index].rpartition(":")[2])
    try:
        return socket.create_server(("", port))
    except OSError as error:
        raise OSError(
            error.errno,
            f"worker {own.index} cannot listen at port {port}, which it was given: "
            f"{os.strerror(error.errno)}. Another program has it, or the last run still goes on",
        ) from error


def _gather(listener, own, ends, timeout):
    """On the first worker: wait until every other has called, then answer all of them."""
    calls = {}
    try:
        while len(calls) < len(own.addresses) - 1:
            listener.settimeout(max(ends - time.monotonic(), 0.001))
            try:
                call, _ = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, len(own.addresses))) - set(calls))
                for call in calls.values():
                    call.sendall(json.dumps(missing).encode() + b"\n")
                raise TimeoutError(_missing(own, missing, timeout)) from None
            index = _index(call)
            if index in range(1, len(own.addresses)):
                calls[index] = call
            else:  # a call of some other program
                call.close()
        for call in calls.values():
            call.sendall(b"[]\n")
            call.makefile().readline()  # until it has closed, and this port is free
    finally:
        for call in calls.values():
            call.close()


def _index(call):
    """The number that a caller says within a second; None from any other program."""
    call.settimeout(1)
    try:
        return int(call.makefile().readline(20))
    except (OSError, ValueError):
        return None


def _report(own, ends, timeout):
    """On another worker: call the first until it listens, and wait for its answer."""
    host, _, port = own.addresses[0].rpartition(":")
    while time.monotonic() < ends:
        try:
            with socket.create_connection((host, int(port)), timeout=1) as call:
                # Longer than the first one waits, whose answer then says who is missing.
                call.settimeout(max(ends + 5 - time.monotonic(), 0.001))
                call.sendall(f"{own.index}\n".encode())
                answer = call.makefile().readline()
            missing = json.loads(answer)
        except (OSError, ValueError):
            time.sleep(_PAUSE)
            continue
        if missing:
            raise TimeoutError(_missing(own, missing, timeout))
        return
    raise TimeoutError(_missing(own, [0], timeout))


def _missing(own, missing, timeout):
    names = ", ".join(f"worker {i} ({own.addresses[i]})" for i in missing)
    return (
        f"worker {own.index} of {len(own.addresses)} waited {timeout:g} s, and did not hear from "
        f"{names}. Start every worker with the same cluster, in TF_CONFIG or by one srun, or wait "
        "longer with strategy(timeout=...)"
    )
