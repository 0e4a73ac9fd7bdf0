"""What is examined of the data: some batches, in the order in which training sees them."""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bnref.norms._feeding import inputs_of, targets_of

KEPT = 16  # so many batches are passed through the model, spread over all that were read
READ = 256  # so many are read of a data set whose batches come one after the other


class Batch(NamedTuple):
    """What the model is called with, the targets or None, and how many examples there are."""

    x: tuple
    y: Any
    size: int


class Batches(NamedTuple):
    """The batches that are examined.

    Attributes
    ----------
    batches : list of Batch
    sizes : list of int
        Of all batches that were read, one after the other; the last one is often smaller.
    complete : bool
        Whether the data ended, so that the last size is that of an epoch's last batch.
    """

    batches: list[Batch]
    sizes: list[int]
    complete: bool


def read(model: Any, name: str, data: Any, batch_size: int) -> Batches:
    """The batches of ``data``: an array, a pair of arrays, a dict of arrays, or an iterable.

    Raises
    ------
    ValueError
        It is none of these, is empty, has inputs and targets of different lengths, or values that
        are not finite; the error names the argument.
    """
    if _is_arrays(data):
        found = _of_arrays(model, name, data, batch_size)
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        found = _of_iterable(model, name, data)
    else:
        raise ValueError(
            f"{name} must be an array, a pair (x, y) of arrays, a tf.data.Dataset or an iterable of "
            f"batches; received {type(data).__name__}"
        )
    for batch in found.batches:
        for each in tf.nest.flatten(batch.x):
            values = np.asarray(each)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                bad = np.sum(~np.isfinite(values))
                raise ValueError(f"{name} must be finite; received {bad} values that are not")
    return found


def _is_array(value):
    return isinstance(value, np.ndarray) or (tf.is_tensor(value) and hasattr(value, "numpy"))


def _is_arrays(data):
    """Whether all examples are there at once: an array, or a tuple or dict made of arrays."""
    if isinstance(data, dict):
        return bool(data) and all(map(_is_array, data.values()))
    if isinstance(data, tuple):
        return bool(data) and all(_is_array(each) or _is_arrays(each) for each in data)
    return _is_array(data)


def _of_arrays(model, name, data, batch_size):
    lengths = {len(each) for each in tf.nest.flatten(data)}
    if len(lengths) != 1 or not min(lengths):
        found = " and ".join(map(str, sorted(lengths)))
        raise ValueError(f"{name} must hold equally many examples, one or more; received {found}")
    total = lengths.pop()
    starts = range(0, total, batch_size)
    sizes = [min(batch_size, total - start) for start in starts]
    # Evenly spread: what is sorted by class or by time shows in batches that lie far apart.
    whole = [start for start, size in zip(starts, sizes, strict=True) if size == sizes[0]]
    chosen = sorted({whole[i] for i in np.linspace(0, len(whole) - 1, KEPT).astype(int)})
    parts = (_slice(data, start, start + batch_size) for start in chosen)
    return Batches([_batch(model, each) for each in parts], sizes, complete=True)


def _of_iterable(model, name, data):
    """Spread over what is read, without knowing how long it is: every second one is dropped."""
    kept: list[Batch] = []
    sizes: list[int] = []
    every = 1
    iterator = iter(data)
    for number, item in enumerate(itertools.islice(iterator, READ)):
        batch = _batch(model, item)
        if not batch.size:
            raise ValueError(f"{name} must hold batches of an example or more; received none")
        sizes.append(batch.size)
        if number % every == 0:
            kept.append(batch)
        if len(kept) == 2 * KEPT:
            kept, every = kept[::2], 2 * every
    if not kept:
        raise ValueError(f"{name} must hold at least one batch; received none")
    whole = [each for each in kept if each.size == sizes[0]]
    chosen = sorted(set(np.linspace(0, len(whole) - 1, KEPT).astype(int)))
    return Batches([whole[i] for i in chosen], sizes, complete=len(sizes) < READ)


def _slice(data, start, end):
    return tf.nest.map_structure(lambda each: each[start:end], data)


def _batch(model, item):
    """Inputs and targets, told apart as `bnref.population.recompute` does."""
    x = inputs_of(model, item)
    first = tf.nest.flatten(x)[0]
    if not getattr(first, "shape", ()):
        raise ValueError(f"a batch must have shape (N, ...); received {first!r}")
    return Batch(x, targets_of(model, item), int(first.shape[0]))
