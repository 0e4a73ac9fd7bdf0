"""Tests of the servers under separate memory: that they compute, copy, and disturb nothing."""

import socket

import numpy as np
import pytest
import tensorflow as tf

from bnref.tf1 import separate_memory, session, tensorflow_1
from bnref.tf1._servers import servers

pytestmark = pytest.mark.slow
v1 = tf.compat.v1


def sum_over(target, devices):
    """1 + 2 + ..., one summand a device."""
    with tf.Graph().as_default(), v1.Session(target) as opened:
        summands = []
        for number, device in enumerate(devices, 1):
            with v1.device(device):
                summands.append(tf.sqrt(v1.placeholder_with_default(float(number**2), [])))
        return opened.run(tf.add_n(summands))


@pytest.mark.parametrize("count", [1, 3])
def test_each_server_has_a_device_of_its_own_and_computes(count):
    target, devices, started = servers(count)
    assert len(started) == len(devices) == len(set(devices)) == count
    assert sum_over(target, devices) == sum(range(1, count + 1))


def test_who_asks_for_as_many_again_gets_the_same_and_other_numbers_are_other_clusters():
    assert servers(2) is servers(2)
    targets = [servers(count)[0] for count in (1, 2, 3)]
    assert len(set(targets)) == 3
    ports = [int(target.rpartition(":")[2]) for target in targets]
    for port in ports:
        socket.create_connection(("127.0.0.1", port)).close()
    assert [sum_over(*servers(count)[:2]) for count in (1, 2, 3)] == [1, 3, 6]


def test_a_session_knows_no_variable_of_the_session_before():
    """They are of the same name, at the same server."""
    placement = separate_memory(1)
    for value in (3.0, 5.0):
        with tensorflow_1(), v1.device(placement.towers[0]), session(placement) as opened:
            v = v1.get_variable("v", initializer=value)
            with pytest.raises(tf.errors.FailedPreconditionError, match="uninitialized"):
                opened.run(v)
            opened.run(v.initializer)
            assert opened.run(v) == value


def test_replicas_and_eager_operations_go_on_beside_servers():
    servers(2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        v = tf.Variable(2.0)
    run = tf.function(lambda: strategy.run(lambda: v.assign_add(1.0)))
    np.testing.assert_array_equal(strategy.experimental_local_results(run()), [3.0])
    assert float(tf.reduce_sum(tf.ones(5))) == 5
