"""Global batches: the order of their examples, and how one is shared out."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf


def shuffled_batches(
    x: Any, y: Any, *, batch_size: int, seed: int, carry: bool = True, start: int = 0
) -> Iterator[tuple]:
    """Batches without end, each epoch in a new order; the order depends on ``seed`` alone.

    The next batch is drawn while the one before it is used. Of the arrays no more is read than the
    examples of a batch, so that they may be memory maps, or decode what they are asked for.

    Parameters
    ----------
    x, y : array, shape (N, ...), or a tuple, list or dictionary of such
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
    x, y : tensors, shapes (batch_size, ...), in the structure of the arrays

    Raises
    ------
    ValueError
        Numbers of `x` are not finite; names the batch, counted from 1, and the first such example.
    """
    return drawn((x, y), batch_size=batch_size, seed=seed, carry=carry, start=start)


def drawn(data, *, batch_size, seed, carry=True, start=0):
    """As `shuffled_batches`, of ``data``: (x, y) or (x, y, weights)."""
    size = len(tf.nest.flatten(data)[0])
    orders = _orders(size, batch_size=batch_size, seed=seed, carry=carry)
    numbered = itertools.islice(enumerate(orders, start=1), start, None)

    def draw(number, chosen):
        own = tf.nest.map_structure(lambda each: each[chosen], data)
        check_finite(own[0], batch=number, examples=chosen)
        return in_host_memory(own)

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(draw, *next(numbered))
        while True:
            batch, coming = coming.result(), ahead.submit(draw, *next(numbered))
            yield batch


def in_host_memory(arrays):
    """Tensors of the arrays that no device holds yet: each gets its replica's part."""
    with tf.device("CPU:0"):
        return tf.nest.map_structure(tf.convert_to_tensor, arrays)


def _orders(size, *, batch_size, seed, carry):
    """Yield the indices of the examples of one batch after the other, without end."""
    random, order = np.random.default_rng(seed), np.empty(0, int)
    while True:
        while len(order) < (batch_size if carry else 1):
            order = np.concatenate([order, random.permutation(size)])
        chosen, order = order[:batch_size], order[batch_size:]
        yield chosen


def share(batch):
    """The part of a global batch that is for this replica; it may be empty.

    Called on a replica; with one replica it is the batch.
    """
    replica = tf.distribute.get_replica_context()
    return part(batch, replica.replica_id_in_sync_group, of=replica.num_replicas_in_sync)


def part(batch, number, *, of):
    """One of several parts of each array: equal parts in order, the first ones larger by 1.

    So are batches shared out over the replicas, and cut up where gradients are accumulated.
    """
    if of == 1:
        return batch
    # Cut where the whole batch lies, in the host's memory: only the part goes to the device.
    with tf.device("CPU:0"):
        size = tf.shape(tf.nest.flatten(batch)[0])[0]
        least, larger = size // of, size % of
        start = number * least + tf.minimum(number, larger)
        end = start + least + tf.cast(number < larger, tf.int32)
        return tf.nest.map_structure(lambda array: array[start:end], batch)


def number_of(batch):
    """The number of examples of a batch in a graph, as float32."""
    return tf.cast(tf.shape(tf.nest.flatten(batch)[0])[0], tf.float32)


def check_data(x, y, sample_weight=None, *, batch_size):
    """Refuse arrays that cannot be trained on.

    Raises
    ------
    ValueError
        Names the argument, and says what came.
    """
    given = {"x": x, "y": y} | ({} if sample_weight is None else {"sample_weight": sample_weight})
    for name, arrays in given.items():
        leaves = tf.nest.flatten(arrays)
        for each in leaves or [arrays]:
            if not len(getattr(each, "shape", ())) or tf.is_tensor(each):
                raise ValueError(
                    f"{name} must be one array, or arrays in a tuple, list or dictionary, of an "
                    f"example or more; received {type(each).__name__}"
                )
    size = number_of_examples(x, y, sample_weight)
    if not size:
        raise ValueError("x must hold at least one example; received none")
    if batch_size > size:
        raise ValueError(f"batch_size must be at most {size}; received {batch_size}")


def number_of_examples(x, y, sample_weight=None):
    """How many there are; arrays of different numbers of examples are refused."""
    data = (x, y) if sample_weight is None else (x, y, sample_weight)
    sizes = [len(each) for each in tf.nest.flatten(data)]
    if len(set(sizes)) > 1:
        *others, last = sizes
        names = "x and y" if sample_weight is None else "x, y and sample_weight"
        raise ValueError(
            f"{names} must be equally long; received {', '.join(map(str, others))} and {last}"
        )
    return sizes[0]


def check_finite(x, *, batch, examples):
    """Refuse a batch of inputs that are not finite: looked at when it comes, not before.

    Parameters
    ----------
    x : arrays, shapes (N, ...)
    batch : int
        Its number, from 1.
    examples : array of int, shape (N,)
        Where its examples lie among all.

    Raises
    ------
    ValueError
        Names the batch and the first example of it that is not finite.
    """
    for each in map(np.asarray, tf.nest.flatten(x)):
        if each.dtype.kind not in "fc" or np.isfinite(each).all():
            continue
        bad = ~np.isfinite(each).reshape(len(each), -1)
        raise ValueError(
            f"x must be finite; received {bad.sum()} values that are not, in batch {batch}, "
            f"first in example {examples[np.argmax(bad.any(1))]} (from 0)"
        )
