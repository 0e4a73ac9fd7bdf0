"""Tests of the towers of bnref.tf1: shares, averaged gradients, and where everything is placed."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import CLOSE

from bnref.tf1 import on_towers, session, shared_memory, training_step
from bnref.tf1._towers import average_gradients

v1 = tf.compat.v1
VARIABLES, *TOWERS = (f"/device:CPU:{number}" for number in range(4))
DESCENT = v1.train.GradientDescentOptimizer


def values(opened):
    """Copies of all variables: what a session returns may be a variable's own memory."""
    return {each.op.name: np.array(opened.run(each)) for each in v1.global_variables()}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("towers", [1, 2, 3])
def test_each_tower_has_an_equal_share_of_every_input_in_order(graph, batch, towers, known):
    x, y, placement = batch((6, 2)), np.arange(6), shared_memory(towers)
    if known:
        fed, feed = (tf.constant(x), tf.constant(y)), {}
    else:
        fed = v1.placeholder(tf.float32, (None, 2)), v1.placeholder(tf.int64, (None,))
        feed = dict(zip(fed, (x, y), strict=True))
    outputs = on_towers(lambda x, y: (x, y), *fed, placement=placement)
    with session(placement) as opened:
        for i, (own_x, own_y) in enumerate(opened.run(outputs, feed)):
            share = slice(i * 6 // towers, (i + 1) * 6 // towers)
            np.testing.assert_array_equal(own_x, x[share])
            np.testing.assert_array_equal(own_y, y[share])
    assert len(outputs) == towers


def linear(x, y):
    """Mean squared error of a linear model, without batch norm."""
    kernel = v1.get_variable("kernel", [3, 2])
    bias = v1.get_variable("bias", [2])
    return tf.reduce_mean((x @ kernel + bias - y) ** 2)


@pytest.mark.parametrize("towers", [1, 2, 3])
def test_a_step_on_towers_is_that_on_the_whole_batch_where_there_is_no_batch_norm(
    graph, batch, towers
):
    x, y, placement = batch((12, 3)) / 5, batch((12, 2), 1), shared_memory(towers)
    losses = on_towers(linear, tf.constant(x), tf.constant(y), placement=placement)
    counter = v1.train.get_or_create_global_step()
    step = training_step(losses, optimizer=DESCENT(0.1), placement=placement)
    with session(placement) as opened:
        opened.run(v1.global_variables_initializer())
        before = values(opened)
        kernel, bias = np.float64(before["kernel"]), np.float64(before["bias"])
        for number in (1, 2):
            error = 2 * (x @ kernel + bias - y)
            each = [np.mean(part**2) / 4 for part in np.split(error, towers)]
            np.testing.assert_allclose(opened.run(losses), each, **CLOSE)
            opened.run(step)
            kernel = kernel - 0.1 * x.T @ error / error.size
            bias = bias - 0.1 * np.sum(error, 0) / error.size
            after = values(opened)
            np.testing.assert_allclose(after["kernel"], kernel, **CLOSE)
            np.testing.assert_allclose(after["bias"], bias, **CLOSE)
            assert opened.run(counter) == number
    assert set(before) == {"kernel", "bias", "global_step"}


def test_a_sparse_gradient_is_averaged_as_a_dense_one(graph):
    placement, rows = shared_memory(2), np.array([0, 2, 2, 3, 2, 0])

    def tower(rows):
        return tf.reduce_mean(tf.gather(v1.get_variable("table", [4, 2]), rows))

    losses = on_towers(tower, tf.constant(rows), placement=placement)
    step = training_step(losses, optimizer=DESCENT(1.0), placement=placement)
    with session(placement) as opened:
        opened.run(v1.global_variables_initializer())
        (before,) = values(opened).values()
        opened.run(step)
        (after,) = values(opened).values()
    counts = np.bincount(rows, minlength=4)[:, None] * np.ones((1, 2))
    np.testing.assert_allclose(before - after, counts / 12, **CLOSE)


def test_everything_but_variables_and_what_the_tower_places_is_on_the_towers_device(graph):
    placement, placed = shared_memory(3), []

    def tower(x):
        kernel = v1.get_variable("kernel", [2, 2])
        with v1.device("/device:CPU:0"):
            placed.append(tf.sqrt(x))
        return tf.reduce_sum(tf.nn.relu(x @ kernel) + placed[-1])

    losses = on_towers(tower, tf.ones((6, 2)), placement=placement)
    optimizer = v1.train.MomentumOptimizer(0.1, 0.9)
    step = training_step(losses, optimizer=optimizer, placement=placement)
    assert [each.device for each in v1.global_variables()] == [VARIABLES] * 2
    assert [each.device for each in placed] == [VARIABLES] * 3
    assert step.device == VARIABLES
    for number, device in enumerate(TOWERS):
        names = f"tower_{number}/", f"gradients_{number}/"
        for prefix in names:
            own = [op for op in graph.get_operations() if op.name.startswith(prefix)]
            compute = [op for op in own if op.type in ("MatMul", "Relu", "ReluGrad")]
            assert compute and {op.device for op in compute} == {device}
    (descent,) = (op for op in graph.get_operations() if op.type == "ApplyMomentum")
    assert descent.device == VARIABLES


def test_a_step_runs_the_update_operations_of_all_towers(graph):
    placement = shared_memory(3)

    def tower(x):
        total = v1.get_variable("total", [], initializer=v1.zeros_initializer(), trainable=False)
        v1.add_to_collection(
            v1.GraphKeys.UPDATE_OPS, v1.assign_add(total, tf.reduce_sum(x), use_locking=True)
        )
        return tf.reduce_sum(v1.get_variable("weight", [])) * tf.reduce_sum(x)

    x = 10.0 ** np.arange(6)
    losses = on_towers(tower, tf.constant(x, tf.float32), placement=placement)
    step = training_step(losses, optimizer=DESCENT(0.1), placement=placement)
    with session(placement) as opened:
        opened.run(v1.global_variables_initializer())
        opened.run(losses)
        assert values(opened)["total"] == 0
        opened.run(step)
        assert values(opened)["total"] == 111111


def test_a_batch_of_unknown_size_that_cannot_be_shared_is_refused_at_run_and_updates_nothing(graph):
    x, y, placement = v1.placeholder(tf.float32, (None, 3)), tf.ones((4, 2)), shared_memory(2)
    losses = on_towers(linear, x, y, placement=placement)
    step = training_step(losses, optimizer=DESCENT(0.1), placement=placement)
    with session(placement) as opened:
        opened.run(v1.global_variables_initializer())
        before = values(opened)
        with pytest.raises(tf.errors.InvalidArgumentError, match="multiple of the number of .*, 2"):
            opened.run(step, {x: np.ones((3, 3))})
        np.testing.assert_equal(values(opened), before)
        opened.run(step, {x: np.ones((4, 3))})
        assert not np.array_equal(values(opened)["kernel"], before["kernel"])


def test_inputs_that_cannot_be_shared_are_refused_while_the_graph_is_built(graph):
    with pytest.raises(ValueError, match="multiple of the number of towers, 2; received 5"):
        on_towers(linear, tf.ones((5, 3)), tf.ones((4, 2)), placement=shared_memory(2))
    with pytest.raises(ValueError, match="inputs must be one tensor or more"):
        on_towers(lambda: tf.zeros([]), placement=shared_memory(2))
    assert v1.global_variables() == []


@pytest.mark.parametrize(
    "loss, towers, message",
    [
        (lambda w: w * [1.0, 2.0], 2, r"losses\[0\] must be a scalar .*received shape \(2,\)"),
        (lambda w: tf.cast(w, tf.int32), 2, r"losses\[0\] must be .* floating type; .*int32"),
        (lambda w: w * 2, 1, "losses must be one a tower; received 2 for 1 towers"),
        (lambda w: tf.stop_gradient(w), 2, "towers must have trainable variables with a gradient"),
    ],
)
def test_losses_that_cannot_be_trained_are_refused_by_name(graph, loss, towers, message):
    def tower(x):
        return loss(v1.get_variable("w", []) * tf.reduce_sum(x))

    losses = on_towers(tower, tf.ones((4, 3)), placement=shared_memory(2))
    with pytest.raises(ValueError, match=message):
        training_step(losses, optimizer=DESCENT(0.1), placement=shared_memory(towers))


def test_gradients_of_other_variables_are_refused_and_those_that_are_missing_left_out(graph):
    one, two = (v1.get_variable(name, []) for name in ("one", "two"))
    pairs = [[(tf.constant(1.0), one), (None, two)], [(tf.constant(5.0), one), (None, two)]]
    ((gradient, variable),) = average_gradients(pairs)
    with v1.Session() as opened:
        assert (opened.run(gradient), variable) == (3, one)
    with pytest.raises(ValueError, match="towers must share their variables; .*one:0, two:0"):
        average_gradients([pairs[0], pairs[1][::-1]])


def test_a_gradient_that_one_tower_lacks_counts_as_zero(graph):
    shared, other = (v1.get_variable(name, []) for name in ("shared", "other"))
    first = [(tf.constant(3.0), shared), (tf.constant(8.0), other)]
    averaged = average_gradients([first, [(tf.constant(5.0), shared), (None, other)]])
    assert [variable for _, variable in averaged] == [shared, other]
    with v1.Session() as opened:
        assert opened.run([gradient for gradient, _ in averaged]) == [4.0, 4.0]
