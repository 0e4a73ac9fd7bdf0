"""One pass of batches through a model: what each call of each norm was given, and what came out."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bnref.doctor._batches import Batch
from bnref.norms import Norm
from bnref.norms._calling import called
from bnref.population._estimators import pooled


class Seen(NamedTuple):
    """What one call of a norm was given.

    Attributes
    ----------
    norm : Norm
    training : bool
        Whether the layer was told that this is training.
    masked : bool
        Whether a mask came with the inputs.
    shape, dtype
        Of the inputs.
    counts : array, shape (N,)
        How many positions of each example count: H·W of an image, 1 of a vector.
    means, variances : array, shape (N, C)
        Of each example over its positions, float64.
    """

    norm: Norm
    training: bool
    masked: bool
    shape: tuple
    dtype: str
    counts: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @property
    def values(self) -> float:
        """How many values each channel's statistics are taken from."""
        return float(self.counts.sum())

    @property
    def mean(self) -> np.ndarray:
        """Of the batch, shape (C,)."""
        return self._weights @ self.means

    @property
    def variance(self) -> np.ndarray:
        """Of the batch, biased, shape (C,)."""
        return self._weights @ (self.variances + np.square(self.means - self.mean))

    @property
    def _weights(self):
        return self.counts / max(self.counts.sum(), 1)


class Pass(NamedTuple):
    """Several batches, passed one after the other.

    Attributes
    ----------
    calls : list of list of Seen
        Of each batch, in the order of the calls.
    outputs : list of array
        Of each batch; of several outputs the first.
    losses : array, shape (B,), or None
        Mean loss of each batch, where there are targets that fit.
    """

    calls: list[list[Seen]]
    outputs: list[np.ndarray]
    losses: np.ndarray | None

    @property
    def loss(self) -> float | None:
        """The mean over the batches, or None."""
        return None if self.losses is None else float(np.mean(self.losses))

    def of(self, norm: Norm) -> list[Seen]:
        """All calls of one norm."""
        return [each for calls in self.calls for each in calls if each.norm is norm]


def passed(
    model: Any,
    norms: list[Norm],
    batches: Iterable[Batch],
    loss: Callable | None,
    *,
    after: Callable = lambda: None,
    **options,
) -> Pass:
    """Pass batches through the model, called with ``options``; ``after()`` is called after each."""
    calls, outputs, losses = [], [], []
    for batch in batches:
        seen: list[Seen] = []
        with watching(norms, seen.append):
            y = model(*batch.x, **options)
        after()
        calls.append(seen)
        outputs.append(first_array(y))
        if loss is not None:
            losses.append(loss(batch.y, y))
    return Pass(calls, outputs, np.array(losses) if losses else None)


@contextlib.contextmanager
def watching(norms: list[Norm], note: Callable[[Seen], None]):
    """Within, ``note`` is given what each call of a norm was given."""

    def call_of(norm):
        def call(original, inputs, training=None, mask=None, **extra):
            note(_seen(norm, inputs, training, mask))
            arguments = {"training": training, "mask": mask, **extra}
            return original(inputs, **arguments)

        return call

    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(called(norm.layer, call_of(norm)))
        yield


def first_array(outputs: Any) -> np.ndarray:
    """The first of the outputs, as an array."""
    return np.asarray(tf.nest.flatten(outputs)[0])


def _seen(norm, inputs, training, mask):
    x = tf.convert_to_tensor(inputs)
    shape, dtype = tuple(x.shape), x.dtype.name
    if dtype not in ("float32", "float64"):
        x = tf.cast(x, tf.float32)
    axis = norm.axis % x.shape.rank
    positions = [each for each in range(1, x.shape.rank) if each != axis]
    if mask is not None and norm.masks:
        weights = tf.cast(mask, x.dtype)
        weights = tf.reshape(weights, [*weights.shape, *[1] * (x.shape.rank - len(weights.shape))])
        counts = tf.reduce_sum(weights * tf.ones_like(x[..., :1]), [*positions, axis])
        divisor = tf.reshape(tf.maximum(counts, 1), [-1, *[1] * (x.shape.rank - 1)])
        means = tf.reduce_sum(tf.where(weights > 0, x, 0), positions, keepdims=True) / divisor
        squares = tf.where(weights > 0, tf.math.squared_difference(x, means), 0)
        variances = tf.reduce_sum(squares, positions, keepdims=True) / divisor
    else:
        each = int(np.prod([shape[i] for i in positions], dtype=int))
        counts = np.full(shape[0], each)
        means = tf.reduce_mean(x, positions, keepdims=True)
        variances = tf.reduce_mean(tf.math.squared_difference(x, means), positions, keepdims=True)
    rows = [shape[0], shape[axis]]
    means, variances = (np.float64(tf.reshape(each, rows)) for each in (means, variances))
    counts = np.float64(counts)
    return Seen(norm, bool(training), mask is not None, shape, dtype, counts, means, variances)


def pooled_of(calls: list[Seen]) -> tuple[np.ndarray, np.ndarray]:
    """Moments of all calls together."""
    counts = np.array([each.values for each in calls])
    means, variances = (
        np.array([getattr(each, name) for each in calls]) for name in ("mean", "variance")
    )
    with np.errstate(invalid="ignore", over="ignore"):
        return pooled(counts, means, variances)
