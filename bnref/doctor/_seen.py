"""What one call of a norm was given, measured where it stands."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bnref.norms import Norm


class Label(NamedTuple):
    """What is known of a call before any number is: the fields of `Seen` that are no numbers."""

    training: bool
    masked: bool
    shape: tuple
    dtype: str


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
        Of each example over its positions, in the type in which they were measured: float64 would
        hold the same numbers, and twice the memory.
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
        return float(self.counts.sum(dtype="float64"))

    @property
    def mean(self) -> np.ndarray:
        """Of the batch, float64, shape (C,)."""
        return self._weights @ self.means

    @property
    def variance(self) -> np.ndarray:
        """Of the batch, biased, float64, shape (C,)."""
        return self._weights @ (self.variances + np.square(self.means - self.mean))

    @property
    def _weights(self):
        return np.asarray(self.counts, np.float64) / max(self.values, 1)


def measured(norm: Norm, inputs: Any, training: Any, mask: Any) -> tuple[Label, tuple]:
    """The label of a call, and counts, means and variances of each example over its positions."""
    x = tf.convert_to_tensor(inputs)
    label = Label(bool(training), mask is not None, tuple(x.shape), x.dtype.name)
    if x.dtype not in (tf.float32, tf.float64):
        x = tf.cast(x, tf.float32)
    axis = norm.axis % x.shape.rank
    positions = [each for each in range(1, x.shape.rank) if each != axis]
    if mask is not None and norm.masks:
        counts, means, variances = _under(mask, x, positions, axis)
    else:
        each = tf.cast(tf.size(x) / (tf.shape(x)[0] * tf.shape(x)[axis]), x.dtype)
        counts = tf.fill(tf.shape(x)[:1], each)
        means = tf.reduce_mean(x, positions, keepdims=True)
        variances = tf.reduce_mean(tf.math.squared_difference(x, means), positions, keepdims=True)
    rows = [-1, x.shape[axis]]
    return label, (counts, tf.reshape(means, rows), tf.reshape(variances, rows))


def _under(mask, x, positions, axis):
    """The same over the positions where the mask is true."""
    valid = tf.cast(mask, tf.bool)
    shape = tf.concat([tf.shape(valid), [1] * (x.shape.rank - valid.shape.rank)], 0)
    valid = tf.reshape(valid, shape)
    counts = tf.reduce_sum(tf.cast(valid, x.dtype) * tf.ones_like(x[..., :1]), [*positions, axis])
    divisor = tf.reshape(tf.maximum(counts, 1), [-1, *[1] * (x.shape.rank - 1)])
    means = tf.reduce_sum(tf.where(valid, x, 0), positions, keepdims=True) / divisor
    squares = tf.where(valid, tf.math.squared_difference(x, means), 0)
    return counts, means, tf.reduce_sum(squares, positions, keepdims=True) / divisor
