"""Servers on this machine: devices with memory of their own, without a GPU."""

import base64
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tensorflow as tf

from bnref.graph import serve

__all__ = ["servers"]

JOB = "bnref"
_SECONDS_TO_START = 60  # a safety net: it takes a fraction of one


@contextmanager
def servers(count, *, ports=None):
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
        One a server, different; free ones unless given.

    Yields
    ------
    target : str
        For ``tf.compat.v1.Session``.
    devices : list of str
        The CPU of each server.

    Raises
    ------
    ValueError
        If `count` is less than 1, or `ports` are not as many different ones from 1 to 65535.
    OSError
        If a port is in use.
    RuntimeError
        If the servers do not start.
    """
    with ExitStack() as stack:
        ports = _checked_ports(count, ports)
        process = stack.enter_context(_process())
        stack.callback(process.kill)
        _start(process, [f"127.0.0.1:{port}" for port in ports])
        devices = [f"/job:{JOB}/replica:0/task:{task}/device:CPU:0" for task in range(count)]
        yield f"grpc://127.0.0.1:{ports[0]}", devices


def _process():
    # Python without its site packages: the child needs none, and starts in a tenth of a second.
    command = [sys.executable, "-I", "-S", serve.__file__, str(_library())]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _library():
    folder = Path(tf.__file__).parent
    found = sorted(folder.glob("libtensorflow_cc.*"))
    if not found:
        raise RuntimeError(f"the servers need TensorFlow's C library, which is not in {folder}")
    return found[0]


def _start(process, addresses):
    cluster = tf.train.ClusterSpec({JOB: addresses}).as_cluster_def()
    lines = []
    for task in range(len(addresses)):
        definition = tf.train.ServerDef(
            cluster=cluster, job_name=JOB, task_index=task, protocol="grpc"
        )
        lines.append(base64.b64encode(definition.SerializeToString()).decode())
    try:
        process.stdin.write("\n".join([*lines, "", ""]))
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended already, and its output says why
    answer = process.stdout.readline().strip()
    if answer != "ready":
        process.kill()
        said = answer or process.stderr.read().strip()[-500:] or "nothing"
        raise RuntimeError(
            f"the servers at {', '.join(addresses)} did not start; they said: {said}"
        )


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
    try:
        held.bind(("", port))  # every interface, as the server will
    except OverflowError:
        raise ValueError(f"ports must be from 1 to 65535; received {port}") from None
    except OSError as error:
        raise OSError(
            error.errno, f"port {port} of ports cannot be used: {error.strerror}"
        ) from error
    return held.getsockname()[1]
