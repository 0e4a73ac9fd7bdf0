"""What a replica knows of the others: whether there are any, and their values."""

from functools import partial

import numpy as np
import tensorflow as tf


def other_replicas():
    """The context of this replica where there are others besides it, else None."""
    replica = tf.distribute.get_replica_context()
    return None if replica is None or replica.num_replicas_in_sync == 1 else replica


def gathered(value):
    """The values of all replicas, one row each: a sum in which each fills its own row.

    TensorFlow's ``all_gather`` asks for the sizes first, which is a second collective.

    Parameters
    ----------
    value : tensor of a known shape, the same on each replica

    Returns
    -------
    tensor, shape (R, ...)
        The same on every replica; with one replica its own value, as a single row.
    """
    value = tf.convert_to_tensor(value)
    replica = other_replicas()
    if replica is None:
        return value[None]
    index, number = replica.replica_id_in_sync_group, replica.num_replicas_in_sync
    rows_of_others = [[index, number - 1 - index], *[[0, 0]] * value.shape.rank]
    rows = tf.ensure_shape(tf.pad(value[None], rows_of_others), (number, *value.shape))
    return replica.all_reduce("sum", rows)


def of_all(strategy, function, *given):
    """Run a function on each replica, of all workers, and return the R results as an array.

    Called on every worker, outside of replicas; ``given`` may be values of this worker's own.
    """
    on_replica = partial(strategy.run, lambda *own: gathered(function(*own)), given)
    # A partial: of a lambda TensorFlow would count how often it is traced, in all calls, and warn.
    everywhere = tf.function(on_replica)
    return np.array(strategy.experimental_local_results(everywhere())[0])
