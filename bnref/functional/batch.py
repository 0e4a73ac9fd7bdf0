"""Moments of a batch: of all of it, of its parts, of each example, of the steps under a mask."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from bnref.functional.context import or_zero, other_replicas
from bnref.functional.shapes import by_example, over_positions, rows

__all__ = [
    "Moments",
    "masked_moments",
    "moments",
    "moments_of_examples",
    "moments_of_parts",
]


class Moments(NamedTuple):
    """Mean and variance of each channel, and whose they are.

    Attributes
    ----------
    mean, variance : tensor, shape (C,) or (G, C)
        The variance is the biased one: the sum of squares is divided by ``count``. With G rows,
        each normalizes its part of the batch: G equal parts one after the other, or those of
        ``part``.
    count : tensor of shape () or (G, 1), or None
        How many values each channel's moments were taken from. None for population statistics.
    average : callable or None
        Turns sums over this call's inputs into averages over the examples whose moments these are:
        division by ``count`` for one replica, preceded by a sum over replicas for several. The
        sums have shape (2, C), and (2, N, C), one row an example, where ``part`` is given. None
        says that the moments do not depend on the inputs (population statistics), and then no
        gradient flows through them.
    correction : pair of tensors like ``mean``, or None
        r and d of batch renormalization: x̂·r + d stands for x̂. Constants to the gradient.
    part : integer tensor, shape (N,), or None
        The row of ``mean`` and ``variance`` that each example is normalized by.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor | None = None
    average: Callable[[tf.Tensor], tf.Tensor] | None = None
    correction: tuple[tf.Tensor, tf.Tensor] | None = None
    part: tf.Tensor | None = None


def moments(x):
    r"""Mean and biased variance of each channel over all other axes.

    .. math:: \mu = \frac1n \sum_i x_i, \qquad \sigma^2 = \frac1n \sum_i (x_i - \mu)^2

    The variance is taken in a second pass around the mean. The one-pass form
    :math:`E[x^2] - E[x]^2` saves a pass and loses all digits once the mean is some thousand
    standard deviations from zero.

    Parameters
    ----------
    x : tensor or array, shape (N, ..., C), floating point
        float16 and bfloat16 are summed in float32.

    Returns
    -------
    Moments
        Its mean and variance have shape (C,), float64 for float64 inputs and float32 otherwise.
        On one of several replicas a batch without an example has the count, mean and variance 0,
        so that it weighs nothing among the others.

    Raises
    ------
    ValueError
        `x` is not floating point, has fewer than two axes or has no example.
    tf.errors.InvalidArgumentError
        `x` has no example, which a graph for batches of any size learns only when it runs.

    Notes
    -----
    Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1, first two lines; for images, section 3.2.
    """
    values = rows(x)
    count = tf.cast(tf.shape(values)[0], values.dtype)
    mean = or_zero(tf.reduce_mean(values, 0), count)
    variance = or_zero(tf.reduce_mean(tf.math.squared_difference(values, mean), 0), count)
    return Moments(mean, variance, count, lambda sums: sums / count)


def moments_of_parts(x, groups):
    """`moments` of each of ``groups`` equal parts of the batch, one after the other.

    Parameters
    ----------
    x : tensor, shape (N, ..., C)
    groups : int
        A divisor of N.

    Returns
    -------
    Moments
        With ``groups`` rows. Nothing is copied: a part is a view of the batch.

    Raises
    ------
    ValueError, tf.errors.InvalidArgumentError
        `groups` does not divide N; else as `moments`.

    Notes
    -----
    Hoffer et al. 2017, arXiv 1705.08741, Algorithm 1.
    """
    x = tf.convert_to_tensor(x)
    message = f"groups must divide the batch; received groups={groups} for a batch of"
    if x.shape[0] is None:
        told = tf.debugging.assert_equal(tf.shape(x)[0] % groups, 0, f"{message} another size")
        with tf.control_dependencies([told]):
            x = tf.identity(x)
    elif x.shape[0] % groups:
        raise ValueError(f"{message} {x.shape[0]}")
    each = [moments(part) for part in tf.split(x, groups)]
    mean, variance = (tf.stack(values) for values in list(zip(*each, strict=True))[:2])
    return Moments(mean, variance, each[0].count, each[0].average)


def moments_of_examples(x):
    """Mean and biased variance of each example over its own positions.

    Parameters
    ----------
    x : tensor, shape (N, ..., C)
        A vector (N, C) is its own mean, with variance 0.

    Returns
    -------
    Moments
        With one row an example.
    """
    values = by_example(x)
    count = tf.cast(tf.shape(values)[1], values.dtype)
    mean = tf.reduce_mean(values, 1)
    variance = tf.reduce_mean(tf.math.squared_difference(values, mean[:, None]), 1)
    each = tf.range(tf.shape(values)[0])
    return Moments(mean, variance, count, lambda sums: sums / count, part=each)


def masked_moments(x, mask):
    r"""Mean and biased variance over the steps where ``mask`` is true; no other is read.

    .. math:: \mu = \frac{\sum_i w_i x_i}{\sum_i w_i}, \qquad
              \sigma^2 = \frac{\sum_i w_i (x_i - \mu)^2}{\sum_i w_i}, \qquad w_i \in \{0, 1\}

    Parameters
    ----------
    x : tensor, shape (N, ..., C)
    mask : boolean tensor
        Its shape is the beginning of the shape of `x`: (N,), (N, T), ... up to ``x.shape[:-1]``.

    Returns
    -------
    Moments
        Their count is that of the values read. The gradient of `normalize` by them is right for
        the steps read, if no other step's output has a gradient; `bnref.layers.MaskedBatchNorm`
        sees to that.

    Raises
    ------
    ValueError
        `mask` is not boolean or has another shape.
    tf.errors.InvalidArgumentError
        `mask` is false everywhere and there is no other replica, or has another shape, which only
        a run can tell.
    """
    values = rows(x)
    read = tf.reshape(over_positions(mask, x), (-1, 1))
    count = tf.reduce_sum(tf.cast(read, values.dtype))
    if not other_replicas():
        told = tf.debugging.assert_positive(count, "mask must be true for at least one step")
        with tf.control_dependencies([told] if told is not None else []):
            count = tf.identity(count)
    # Selected, not multiplied: what is not read may be NaN.
    mean = or_zero(tf.reduce_sum(tf.where(read, values, 0), 0) / count, count)
    squares = tf.where(read, tf.math.squared_difference(values, mean), 0)
    variance = or_zero(tf.reduce_sum(squares, 0) / count, count)
    return Moments(mean, variance, count, lambda sums: sums / count)
