"""Several workers on one machine, started and ended together.

Kept for machines without a scheduler. TensorFlow has a launcher for its own tests alone,
``multi_process_runner``, which runs functions in forks; a loop of the shell would leave the others
running when one has failed.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from typing import IO

import tensorflow as tf

from bnref._checks import whole_number

# Below the range from which systems take ports for outgoing connections.
_PORTS = range(20000, 32000)
_PAUSE = 0.05


def start(
    script: str | os.PathLike,
    count: int,
    *arguments: str,
    timeout: float | None = None,
    grace: float = 30.0,
    environment: dict[str, str] | None = None,
    output: IO | None = None,
) -> None:
    """Run a script as several workers on this machine, and wait for them.

    Each is a process of this Python with a ``TF_CONFIG`` that names all of them at 127.0.0.1. What
    they print comes through. None of them is left behind, whatever happens here; what they start
    themselves is theirs. Where there are GPUs each worker gets an equal part of them, or none if
    there are fewer than workers.

    Parameters
    ----------
    script : path
    count : int, ≥ 1
        How many workers.
    *arguments : str
        The script's own.
    timeout : float, optional
        Seconds after which all are ended; without it there is no limit.
    grace : float
        Seconds that the others have to end by themselves after one has failed, of which TensorFlow
        takes 10 to notice; and that all have after SIGTERM, which is passed on to them where it
        raises SystemExit here, as it does under ``python -m bnref.workers``.
    environment : dict of str, optional
        Variables besides those of this process.
    output : file, optional
        Open for writing; what they print goes there.

    Raises
    ------
    ValueError
        `count` is no whole number above 0.
    FileNotFoundError
        There is no such script.
    RuntimeError
        A worker failed; the message has the statuses of all, that of the first to fail first.
    TimeoutError
        They had not ended in time.
    """
    whole_number("count", count)
    if not os.path.exists(script):  # noqa: PTH110  (a str is as good as a path)
        raise FileNotFoundError(f"script: there is no file {os.fspath(script)!r}")
    gpus = _gpus(count)
    addresses, processes = [f"127.0.0.1:{port}" for port in _free_ports(count)], []
    try:
        for index in range(count):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            process = subprocess.Popen(
                [sys.executable, os.fspath(script), *arguments],
                env={
                    **os.environ,
                    **gpus[index],
                    **(environment or {}),
                    "TF_CONFIG": json.dumps(config),
                },  # fmt: skip
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output and subprocess.STDOUT,
            )
            processes.append(process)
        _wait(processes, timeout, grace)
    except SystemExit:  # asked to end: the workers are too, and may have a checkpoint to write
        for process in processes:
            process.terminate()
        with contextlib.suppress(RuntimeError, TimeoutError):
            _wait(processes, grace, grace)
        raise
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _gpus(count):
    """The environment that gives each worker its part of the GPUs; nothing where there are none."""
    there = len(tf.config.list_physical_devices("GPU"))
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(there)))
    names, part = seen.split(","), there // count
    parts = [",".join(names[i * part : (i + 1) * part]) or "-1" for i in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": each} if there else {} for each in parts]


def _wait(processes, timeout, grace):
    """Wait until all processes have ended with status 0; raise if one fails or time is up."""
    ends, failed = time.monotonic() + (float("inf") if timeout is None else timeout), []
    while any(process.poll() is None for process in processes):
        for index, process in enumerate(processes):
            if process.poll() and index not in failed:
                failed.append(index)
                ends = min(ends, time.monotonic() + grace)
        if time.monotonic() > ends:
            break
        time.sleep(_PAUSE)
    running = [i for i, process in enumerate(processes) if process.poll() is None]
    failed += [i for i, each in enumerate(processes) if each.poll() and i not in failed]
    if failed:
        said = [f"worker {i} ended with status {processes[i].poll()}" for i in failed]
        said += [f"worker {i} was ended {grace:g} s later" for i in running]
        raise RuntimeError("; ".join(said))
    if running:
        raise TimeoutError(f"workers {running} had not ended after {timeout:g} s, and were ended")


def _free_ports(count):
    """``count`` ports of 127.0.0.1 that nobody listens at."""
    found = []
    # Not by the global random state: two programs with the same seed would choose the same.
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"count: there are not {count} free ports between {_PORTS[0]} and {_PORTS[-1]}")
