"""Where a call is made: on one of several replicas, or within forward-mode differentiation."""

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util

__all__ = []


def other_replicas():
    """The context of this replica where there are others besides it, else None."""
    replica = tf.distribute.get_replica_context()
    return None if replica is None or replica.num_replicas_in_sync == 1 else replica


def in_forward_mode(tensors):
    """Whether a ``tf.autodiff.ForwardAccumulator`` differentiates along any of the tensors.

    In a graph it does not know ``tf.custom_gradient``: it goes through the operations inside. There
    is no public way to ask.
    """
    return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)
