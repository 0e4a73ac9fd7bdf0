"""What random layers draw on several replicas: each numbers of its own."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from bnref.functional._replicas import other_replicas

# Large, so that layers whose seeds follow each other do not draw what another replica's draw.
_APART = 1013904242


@contextlib.contextmanager
def own_of_each_replica(model) -> Iterator[None]:
    """Within, on a replica, dropout and augmentation draw other numbers than on the others.

    The state of a layer's ``keras.random.SeedGenerator`` is a seed and a count, the same on all
    replicas, which so would all drop the same units and flip the same images of their shares. Here
    the seed is moved by the replica's number for the time of a pass, and moved back: after it the
    states agree, so that a checkpoint, which holds the first replica's, holds them all.

    One replica draws as Keras does. Layers that draw without a generator of their own are not
    known.
    """
    replica = other_replicas()
    if replica is None:
        yield
        return
    states = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    number = replica.replica_id_in_sync_group
    for each in states:
        each.assign(each.value + _of_seed(number, each.dtype))
    yield
    for each in states:
        each.assign(each.value - _of_seed(number, each.dtype))


def _of_seed(number, dtype):
    """What is added to (seed, count); it may wrap around, and does so again on the way back."""
    return tf.stack([tf.cast(number, dtype) * tf.constant(_APART, dtype), tf.constant(0, dtype)])
