"""Global batches: the order of their examples, and how one is shared out."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf


def shuffled_batches(
    x: np.ndarray, y: np.ndarray, *, batch_size: int, seed: int, carry: bool = True, start: int = 0
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
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
        with tf.device("CPU:0"):  # in the host's memory: each device gets its replica's part
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
    """The part of each array of a global batch that is for this replica; it may be empty.

    Called on a replica; with one replica it is the arrays.
    """
    replica = tf.distribute.get_replica_context()
    return part(arrays, replica.replica_id_in_sync_group, of=replica.num_replicas_in_sync)


def part(arrays, number, *, of):
    """One of several parts of each array: equal parts in order, the first ones larger by 1.

    So are batches shared out over the replicas, and cut up where gradients are accumulated.
    """
    if of == 1:
        return arrays
    # Cut where the whole batch lies, in the host's memory: only the part goes to the device.
    with tf.device("CPU:0"):
        size = tf.shape(arrays[0])[0]
        least, larger = size // of, size % of
        start = number * least + tf.minimum(number, larger)
        end = start + least + tf.cast(number < larger, tf.int32)
        return tuple(array[start:end] for array in arrays)


def check_data(x, y, *, batch_size):
    """Refuse arrays that cannot be trained on.

    Raises
    ------
    ValueError
        Names the argument, and says what came.
    """
    for name, array in (("x", x), ("y", y)):
        if not len(getattr(array, "shape", ())) or tf.is_tensor(array):
            raise ValueError(
                f"{name} must be one array, of an example or more; received {type(array).__name__}"
            )
    if not len(x):
        raise ValueError("x must hold at least one example; received none")
    check_equally_long(x, y)
    if batch_size > len(x):
        raise ValueError(f"batch_size must be at most {len(x)}; received {batch_size}")
    if not np.isfinite(x).all():
        bad = np.sum(~np.isfinite(x))
        raise ValueError(f"x must be finite; received {bad} values that are not")


def check_equally_long(x, y):
    """Refuse inputs and targets of different numbers of examples."""
    if len(x) != len(y):
        raise ValueError(f"x and y must be equally long; received {len(x)} and {len(y)}")
