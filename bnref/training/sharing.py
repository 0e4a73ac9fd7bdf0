"""How a global batch is shared out over the replicas, and the order of the examples."""

import itertools
from numbers import Integral

import numpy as np
import tensorflow as tf

__all__ = ["shuffled_batches"]


def shuffled_batches(x, y, *, batch_size, seed, carry=True, start=0):
    """Batches without end, each epoch in a new order; the order depends on ``seed`` alone.

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
    for chosen in itertools.islice(orders, start, None):
        yield tf.constant(x[chosen]), tf.constant(y[chosen])


def _orders(size, *, batch_size, seed, carry):
    """The numbers of the examples of each batch, without end."""
    random, order = np.random.default_rng(seed), np.empty(0, int)
    while True:
        while len(order) < (batch_size if carry else 1):
            order = np.concatenate([order, random.permutation(size)])
        chosen, order = order[:batch_size], order[batch_size:]
        yield chosen


def shared(strategy, *arrays):
    """Each array of a global batch, cut for the replicas: equal shares, the first ones larger by 1.

    A replica gets no example where there are fewer than replicas. With one replica, the arrays.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return tuple(tf.convert_to_tensor(array) for array in arrays)
    sizes = [len(arrays[0]) // replicas + (i < len(arrays[0]) % replicas) for i in range(replicas)]
    ends = np.cumsum([0, *sizes])

    def share(array):
        return strategy.experimental_distribute_values_from_function(
            lambda replica: tf.convert_to_tensor(
                array[slice(*ends[replica.replica_id_in_sync_group :][:2])]
            )
        )

    return tuple(map(share, arrays))


def cut(x, y, *, parts):
    """``parts`` pieces of a batch, one after the other, as equal as can be."""
    if len(x) < parts:
        raise ValueError(f"accumulate must be at most the batch's {len(x)}; received {parts}")
    ends = [len(x) * i // parts for i in range(parts + 1)]
    return [(x[start:end], y[start:end]) for start, end in zip(ends[:-1], ends[1:], strict=True)]


def check_whole(**counts):
    """Refuse what is not a whole number of at least 1, by its name."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a whole number, at least 1; received {count!r}")


def check_data(x, y, *, batch_size):
    """Refuse arrays that cannot be trained on."""
    if len(x) != len(y):
        raise ValueError(f"x and y must be equally long; received {len(x)} and {len(y)}")
    if batch_size > len(x):
        raise ValueError(f"batch_size must be at most {len(x)}; received {batch_size}")
    if not np.isfinite(x).all():
        bad = np.sum(~np.isfinite(x))
        raise ValueError(f"x must be finite; received {bad} values that are not")
