"""Servers on this machine: devices with memory of their own, without a GPU."""

import base64
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import tensorflow as tf

from bnref.tf1 import serve

__all__ = ["servers"]

JOB = "bnref"
_SECONDS_TO_START = 60  # a safety net: it takes a fraction of one


@contextmanager
def servers(count: int, *, ports: Sequence[int] | None = None):
    """Run TensorFlow servers on this machine until the block ends, however it ends.

    Each is one task of a cluster, with a CPU device of its own: tensors between two of them are
    copied, as between GPUs, while logical CPU devices of one process share their memory. All run
    in one child process, which ends with the block or with this process. They are reached through
    127.0.0.1; TensorFlow itself listens on every interface, and without any password, so this is
    for a machine whose network is trusted, or behind a firewall.

    Parameters
    ----------
    count : int
        The number of servers, 1 or more.
    ports : sequence of int, optional
        One a server, different, from 1 to 65535, or 0 for a free one; free ones unless given.

    Yields
    ------
    target : str
        For ``tf.compat.v1.Session``.
    devices : list of str
        The CPU of each server.

    Raises
    ------
    ValueError
        If `count` is less than 1, or `ports` are not as many different ones in their range.
    OSError
        If a port is in use.
    RuntimeError
        If the servers do not start.
    """
    with ExitStack() as stack:
        ports = _checked_ports(count, ports)
        log = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
        process = stack.enter_context(_process(log))
        stack.callback(process.kill)
        _start(process, log, [f"127.0.0.1:{port}" for port in ports])
        devices = [f"/job:{JOB}/replica:0/task:{task}/device:CPU:0" for task in range(count)]
        yield f"grpc://127.0.0.1:{ports[0]}", devices


def _process(log):
    # Python without its site packages: the child needs none, and starts in a tenth of a second.
    # Its warnings go to a file, because a pipe that nobody reads would fill up and stop it.
    command = [sys.executable, "-I", "-S", serve.__file__, str(_library())]
    pipe = subprocess.PIPE
    # The servers have CPUs alone: a GPU, if there is one, is left to this process.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment
    )


def _library():
    folder = Path(tf.__file__).parent
    found = sorted(folder.glob("libtensorflow_cc.*"))
    if not found:
        raise RuntimeError(f"the servers need TensorFlow's C library, which is not in {folder}")
    return found[0]


def _start(process, log, addresses):
    cluster = tf.train.ClusterSpec({JOB: addresses}).as_cluster_def()
    lines = []
    for task in range(len(addresses)):
        definition = tf.train.ServerDef(
            cluster=cluster, job_name=JOB, task_index=task, protocol="grpc"
        )
        lines.append(base64.b64encode(definition.SerializeToString()).decode())
    late = threading.Timer(_SECONDS_TO_START, process.kill)
    late.start()
    try:
        answer = _answer(process, "\n".join([*lines, "", ""]))
    finally:
        late.cancel()
    if answer != "ready":
        process.kill()
        process.wait()
        log.seek(0)
        said = answer or log.read().strip()[-500:] or "nothing"
        raise RuntimeError(
            f"the servers at {', '.join(addresses)} did not start; they said: {said}"
        )


def _answer(process, definitions):
    try:
        process.stdin.write(definitions)
        process.stdin.flush()
    except BrokenPipeError:  # it has ended already, and its output says why
        with suppress(BrokenPipeError):
            process.stdin.close()  # or what it did not take would be written again at the end
    return process.stdout.readline().strip()


def _checked_ports(count, ports):
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be an integer, 1 or more; received {count!r}")
    ports = [0] * count if ports is None else list(ports)
    asked = [port for port in ports if port]
    if len(ports) != count or len(set(asked)) != len(asked):
        raise ValueError(f"ports must be {count} different ones; received {ports}")
    # Held together, so that the system gives out different ones, and freed just before their use.
    with ExitStack() as stack:
        return [_free_port(stack.enter_context(socket.socket()), port) for port in ports]


def _free_port(held, port):
    if port:  # as the server does: what was connected to the port before may still linger
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("", port))  # every interface, as the server will
    except OverflowError:
        raise ValueError(f"ports must be from 0 to 65535; received {port}") from None
    except OSError as error:
        raise OSError(
            error.errno, f"port {port} of ports cannot be used: {error.strerror}"
        ) from error
    return held.getsockname()[1]
