"""How a global batch is shared out over the replicas, and the order of the examples."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral

import numpy as np
import tensorflow as tf

__all__ = ["shuffled_batches"]


def shuffled_batches(x, y, *, batch_size, seed, carry=True, start=0):
    """Batches without end, each epoch in a new order; the order depends on ``seed`` alone.

    The next batch is drawn while the one before it is used.

    Parameters
    ----------
    x, y : array, shapes (N, ...)
    batch_size : int
        At most N.
    seed : int
    carry : bool
        What is left over at the end of an epoch is shuffled into the next, so that all batches
        have `batch_size` examples. If False, it is a short batch of its own.
    start : int
        So many batches are left out, as if they had been drawn.

    Yields
    ------
    x, y : tensors, shapes (batch_size, ...)
    """
    orders = _orders(len(x), batch_size=batch_size, seed=seed, carry=carry)
    orders = itertools.islice(orders, start, None)

    def draw(chosen):
        with tf.device("CPU:0"):  # of which each replica's device gets its part
            return tf.constant(x[chosen]), tf.constant(y[chosen])

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(draw, next(orders))
        while True:
            batch, coming = coming.result(), ahead.submit(draw, next(orders))
            yield batch


def _orders(size, *, batch_size, seed, carry):
    """Yield the indices of the examples of one batch after the other, without end."""
    random, order = np.random.default_rng(seed), np.empty(0, int)
    while True:
        while len(order) < (batch_size if carry else 1):
            order = np.concatenate([order, random.permutation(size)])
        chosen, order = order[:batch_size], order[batch_size:]
        yield chosen


def share(*arrays):
    """Each array of a global batch, cut to this replica's part: equal parts, the first larger by 1.

    A replica gets no example where there are fewer than replicas. Called on a replica; with one
    replica it is the arrays.
    """
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return arrays
    # Cut where the whole batch lies, in the host's memory: only the part goes to the device.
    with tf.device("CPU:0"):
        size, index = tf.shape(arrays[0])[0], replica.replica_id_in_sync_group
        least, larger = size // replica.num_replicas_in_sync, size % replica.num_replicas_in_sync
        start = index * least + tf.minimum(index, larger)
        end = start + least + tf.cast(index < larger, tf.int32)
        return tuple(array[start:end] for array in arrays)


def cut(x, y, *, parts):
    """``parts`` pieces of a global batch, one after the other, as equal as can be."""
    if parts == 1:
        return [(x, y)]
    size = tf.shape(x)[0]
    ends = [size * i // parts for i in range(parts + 1)]
    with tf.device("CPU:0"):
        return [(x[i:j], y[i:j]) for i, j in zip(ends[:-1], ends[1:], strict=True)]


def check_whole(**counts):
    """Refuse what is not a whole number of at least 1, by its name."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a whole number, at least 1; received {count!r}")


def check_data(x, y, *, batch_size):
    """Refuse arrays that cannot be trained on."""
    for name, array in (("x", x), ("y", y)):
        if not len(getattr(array, "shape", ())) or tf.is_tensor(array):
            raise ValueError(
                f"{name} must be one array, of an example or more; received {type(array).__name__}"
            )
    if not len(x):
        raise ValueError("x must hold at least one example; received none")
    if len(x) != len(y):
        raise ValueError(f"x and y must be equally long; received {len(x)} and {len(y)}")
    if batch_size > len(x):
        raise ValueError(f"batch_size must be at most {len(x)}; received {batch_size}")
    if not np.isfinite(x).all():
        bad = np.sum(~np.isfinite(x))
        raise ValueError(f"x must be finite; received {bad} values that are not")
