"""Servers in this process: devices with memory of their own, without a GPU."""

import socket
from contextlib import ExitStack
from functools import cache

import tensorflow as tf

v1 = tf.compat.v1
JOB = "bnref"


@cache
def servers(count):
    """Start so many TensorFlow servers, the first time that so many are asked for.

    Each is one task of a cluster, with a CPU device of its own: tensors between two of them are
    copied, as between GPUs, while logical CPU devices share their memory. TensorFlow cannot stop a
    server ("Clean shutdown is not currently implemented"), so they stay until this process ends.
    They are reached through 127.0.0.1; TensorFlow itself listens on every interface, and without
    any password, so this is for a machine whose network is trusted, or behind a firewall.

    Parameters
    ----------
    count : int, ≥ 1

    Returns
    -------
    target : str
        For ``tf.compat.v1.Session``.
    devices : tuple of str
        The CPU of each server.
    started : tuple of tf.distribute.Server
    """
    with ExitStack() as stack:  # held together, so that the system gives out different ports
        held = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in held]
    cluster = tf.train.ClusterSpec({JOB: addresses})
    cpu_alone = v1.ConfigProto(device_count={"CPU": 1, "GPU": 0})
    started = tuple(
        tf.distribute.Server(cluster, job_name=JOB, task_index=task, config=cpu_alone)
        for task in range(count)
    )
    devices = tuple(f"/job:{JOB}/replica:0/task:{task}/device:CPU:0" for task in range(count))
    return started[0].target, devices, started
