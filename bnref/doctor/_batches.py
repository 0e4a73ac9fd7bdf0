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
            f"{name} must be an array, a pair (x, y) of arrays, a tf.data.Dataset or an iterable "
            f"of batches; received {type(data).__name__}"
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
    whole = [start for start, size in zip(starts, sizes, strict=True) if size == sizes[0]]
    chosen = [whole[i] for i in _spread(len(whole))]
    parts = (_slice(data, start, start + batch_size) for start in chosen)
    return Batches([_batch(model, each) for each in parts], sizes, complete=True)


def _of_iterable(model, name, data):
    """Spread over what is read, without knowing how long it is: every second pair is dropped."""
    kept: list[Batch] = []
    sizes: list[int] = []
    every = 1
    iterator = iter(data)
    for number, item in enumerate(itertools.islice(iterator, READ)):
        batch = _batch(model, item)
        if not batch.size:
            raise ValueError(f"{name} must hold batches of an example or more; received none")
        sizes.append(batch.size)
        if number // 2 % every == 0:
            kept.append(batch)
        if len(kept) == 2 * KEPT:
            kept, every = [each for i, each in enumerate(kept) if i // 2 % 2 == 0], 2 * every
    if not kept:
        raise ValueError(f"{name} must hold at least one batch; received none")
    whole = [each for each in kept if each.size == sizes[0]]
    return Batches([whole[i] for i in _spread(len(whole))], sizes, complete=len(sizes) < READ)


def _spread(number):
    """Which of so many batches: pairs of neighbours, evenly spread.

    What is sorted by class or by time shows in batches that lie far apart; what comes in turn, one
    kind after the other, in neighbours.
    """
    if number <= KEPT:
        return list(range(number))
    firsts = np.linspace(0, number - 2, KEPT // 2).astype(int)
    return sorted({each + step for each in firsts for step in (0, 1)})


def _slice(data, start, end):
    return tf.nest.map_structure(lambda each: each[start:end], data)


def _batch(model, item):
    """Inputs and targets, told apart as `bnref.population.recompute` does."""
    x = inputs_of(model, item)
    first = tf.nest.flatten(x)[0]
    if not getattr(first, "shape", ()):
        raise ValueError(f"a batch must have shape (N, ...); received {first!r}")
    return Batch(x, targets_of(model, item), int(first.shape[0]))


def regrouped(batches: list[Batch]) -> list[Batch] | None:
    """The same examples at random in batches of the same size; None if they cannot be.

    Each new batch takes its examples from all old ones, as far as there are enough of them.
    """
    if len(batches) < 4 or any(each.y is None for each in batches):
        return None
    size = batches[0].size
    order = np.random.default_rng(0).permutation(size * len(batches))

    def mixed(*arrays):
        return np.concatenate([np.asarray(each) for each in arrays])[order]

    x, y = (
        tf.nest.map_structure(mixed, *parts)
        for parts in zip(*[b[:2] for b in batches], strict=True)
    )
    starts = range(0, size * len(batches), size)
    return [Batch(rows(x, i, i + size), rows(y, i, i + size), size) for i in starts]


def rows(x: Any, start: int, end: int) -> Any:
    """Some examples of what may be nested."""
    return tf.nest.map_structure(lambda each: each[start:end], x)
