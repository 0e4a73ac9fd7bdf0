"""Tests of how and where a graph of TensorFlow 1 is built: its conditions and its placement."""

import re

import numpy as np
import pytest
import tensorflow as tf

from bnref.tf1 import separate_memory, session, shared_memory, tensorflow_1, training_step
from bnref.tf1._placement import Placement

v1 = tf.compat.v1
REPLICA = "/job:localhost/replica:0/task:0"


def modes():
    return v1.control_flow_v2_enabled(), v1.resource_variables_enabled(), tf.executing_eagerly()


@pytest.mark.parametrize("v2_before", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_every_mode_is_as_before_when_the_block_ends_even_by_an_exception(v2_before, fails):
    if not v2_before:
        v1.disable_control_flow_v2()
    try:
        before, default = modes(), v1.get_default_graph()
        for wanted in (True, False):
            try:
                with tensorflow_1(control_flow_v2=wanted) as graph:
                    assert v1.get_default_graph() is graph is not default
                    assert modes() == (wanted, before[1], False)
                    if fails:
                        raise KeyError("within")
            except KeyError:
                assert fails
            assert modes() == before == (v2_before, True, True)
            assert v1.get_default_graph() is default
    finally:
        v1.enable_control_flow_v2()


@pytest.mark.parametrize("options, resource", [({}, False), ({"resource_variables": True}, True)])
def test_variables_are_of_the_kind_asked_for_in_scopes_and_for_optimizers_too(options, resource):
    with tensorflow_1(**options):
        with v1.variable_scope("scope"):
            x = v1.get_variable("x", [2])
        training_step([tf.reduce_sum(x)], optimizer=v1.train.MomentumOptimizer(0.1, 0.9),
                      placement=shared_memory(1))  # fmt: skip
        kinds = {each.op.type for each in v1.global_variables()}
    assert kinds == ({"VarHandleOp"} if resource else {"VariableV2"})


def test_the_seed_of_the_graph_alone_decides_the_initial_weights():
    def weights(seed):
        with tensorflow_1(seed=seed), session(shared_memory(1)) as opened:
            x = v1.get_variable("x", [3, 4])
            opened.run(x.initializer)
            return np.array(opened.run(x))

    one = weights(1)
    tf.random.uniform([3])
    np.testing.assert_array_equal(weights(1), one)
    assert not np.isclose(weights(2), one).any()


@pytest.mark.parametrize(
    "towers, options, variables",
    [(1, {}, 0), (3, {}, 0), (3, {"variables": "with the first tower"}, 1)],
)
def test_a_placement_has_a_device_for_each_tower_and_one_for_the_variables(
    towers, options, variables
):
    devices = [f"/device:CPU:{number}" for number in range(towers + 1)]
    shared = shared_memory(towers, **options)
    assert shared == Placement(devices[variables], tuple(devices[1:]), "")
    with session(shared) as opened:
        there = {each.name.removeprefix(REPLICA) for each in opened.list_devices()}
        assert set(devices) <= there

    devices = [f"/job:bnref/replica:0/task:{number}/device:CPU:0" for number in range(towers + 1)]
    apart = separate_memory(towers, **options)
    assert apart == Placement(devices[variables], tuple(devices[1:]), apart.target)
    assert re.match(r"grpc://[\w.-]+:\d+$", apart.target)
    with session(apart) as opened:
        assert set(devices) <= {each.name for each in opened.list_devices()}


@pytest.mark.parametrize(
    "seen, towers, used", [(2, 1, True), (2, 2, True), (4, 3, True), (1, 1, False), (2, 3, False)]
)
def test_gpus_are_used_where_there_are_two_and_one_for_every_tower(monkeypatch, seen, towers, used):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"] * seen)
    placement = separate_memory(towers)
    assert bool(placement.target) != used
    if used:
        gpus = tuple(f"/device:GPU:{number}" for number in range(towers))
        assert placement == Placement("/device:CPU:0", gpus, "")
        placement = separate_memory(towers, variables="with the first tower")
        assert placement == Placement("/device:GPU:0", gpus, "")


@pytest.mark.parametrize(
    "towers, options, message",
    [
        *(
            (towers, {}, f"towers must be a whole number, at least 1; received {towers!r}")
            for towers in (0, -1, True, 1.5, "2", None)
        ),
        (1, {"variables": "nowhere"}, "with the first tower'); received 'nowhere'"),
    ],
)
def test_towers_and_places_that_cannot_be_are_refused_by_name(towers, options, message):
    for place in (shared_memory, separate_memory):
        with pytest.raises(ValueError, match=re.escape(message)):
            place(towers, **options)


@pytest.mark.parametrize(
    "named, missing",
    [
        (("/device:CPU:0", ("/device:CPU:1", "/device:GPU:99")), ["/device:GPU:99"]),
        (("/device:GPU:98", ("/device:GPU:98", "/device:GPU:99")), ["GPU:98", "GPU:99"]),
        (
            ("/job:bnref/task:0/device:CPU:0", ("/device:CPU:1",)),
            ["/job:bnref/task:0/device:CPU:0"],
        ),
    ],
)
def test_a_session_on_a_device_that_there_is_not_is_refused_by_its_name(named, missing):
    message = "devices that there are not: .*" + ".*".join(map(re.escape, missing))
    with pytest.raises(ValueError, match=message), session(Placement(*named)):
        raise AssertionError("the session was opened")


def test_a_session_on_more_servers_than_there_are_is_refused_by_name():
    placement, task_5 = separate_memory(1), "/job:bnref/replica:0/task:5/device:CPU:0"
    wrong = placement._replace(towers=(*placement.towers, task_5))
    with pytest.raises(ValueError, match=f"not: {task_5}; there are"), session(wrong):
        raise AssertionError("the session was opened")
