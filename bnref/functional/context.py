"""Whether this call is one of several replicas'."""

import tensorflow as tf

__all__ = ["remembered"]


def other_replicas():
    """The context of this replica where there are others besides it, else None."""
    replica = tf.distribute.get_replica_context()
    return None if replica is None or replica.num_replicas_in_sync == 1 else replica


def or_zero(value, count):
    """``value``, and 0 where ``count`` is 0: what a replica without an example adds to the others.

    Where there is no other replica `value` itself, as a batch without an example was refused.
    """
    return tf.where(count > 0, value, tf.zeros_like(value)) if other_replicas() else value


def remembered(moments, new, old):
    """``new``, and ``old`` where there was no example: on one of several replicas, in a domain.

    Parameters
    ----------
    moments : Moments
        Whose count decides.
    new, old : number or tensor
        What follows from the batch, and what stays without one.

    Returns
    -------
    tensor, or `new` itself where a batch without an example is refused anyway
    """
    if moments.part is None and not other_replicas():
        return new
    # A number keeps its digits: it would become float32.
    new = tf.constant(new, tf.float64) if isinstance(new, float) else tf.convert_to_tensor(new)
    return tf.where(moments.count > 0, new, tf.cast(old, new.dtype))
