"""The conditions of TensorFlow 1, in which the posted code ran."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

v1 = tf.compat.v1


@contextmanager
def tensorflow_1(
    *, resource_variables: bool = False, control_flow_v2: bool = False, seed: int | None = None
) -> Iterator[tf.Graph]:
    """Build a graph as TensorFlow 1 did, with its defaults; afterwards all is as it was.

    Two defaults have changed since, and either change hides the fault of method 1: the read of a
    *resource* variable is an operation of its own, which control dependencies hold back; and
    *control flow v2* makes a function of a branch, whose inputs are read before it is called.

    Parameters
    ----------
    resource_variables : bool
        As in TensorFlow 2, instead of the reference variables of TensorFlow 1.
    control_flow_v2 : bool
        `tf.cond` as in TensorFlow 2, instead of that of TensorFlow 1.
    seed : int, optional
        Of the graph's random operations, the initial weights among them.

    Yields
    ------
    tf.Graph
        The default graph within the block.
    """
    before = v1.control_flow_v2_enabled()
    _switch_control_flow_v2(control_flow_v2)
    try:
        with tf.Graph().as_default() as graph:
            v1.set_random_seed(seed)
            scope = v1.get_variable_scope()
            with v1.variable_scope(scope, use_resource=resource_variables):
                yield graph
    finally:
        _switch_control_flow_v2(before)


def _switch_control_flow_v2(on):
    (v1.enable_control_flow_v2 if on else v1.disable_control_flow_v2)()
