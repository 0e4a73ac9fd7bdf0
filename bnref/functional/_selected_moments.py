"""Moments of a selection of the batch: the steps under a mask, the examples of each domain."""

import tensorflow as tf

from bnref.functional._inputs import (
    TensorLike,
    after,
    at_least_float32,
    not_empty,
    over_positions,
)
from bnref.functional._moments import Moments
from bnref.functional._replicas import other_replicas
from bnref.functional._rows import Index


def masked_moments(x: TensorLike, mask: TensorLike) -> Moments:
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
        With one row; their count is that of the values read. The gradient of `normalize` by them is
        right for the steps read, if no other step's output has a gradient;
        `bnref.layers.MaskedBatchNorm` sees to that.

    Raises
    ------
    ValueError
        `mask` is not boolean or has another shape.
    tf.errors.InvalidArgumentError
        `mask` is false everywhere and there is no other replica, or has another shape, which only
        a run can tell.
    """
    x = at_least_float32(not_empty(x))
    valid, every = over_positions(mask, x), range(x.shape.rank - 1)
    count = tf.reshape(tf.reduce_sum(tf.cast(valid, x.dtype)), (1, 1))
    if not other_replicas():
        message = "mask must be true for at least one step"
        count = after(tf.debugging.assert_positive(count, message), count)
    # Selected, not multiplied: what is not valid may be NaN.
    mean = tf.reduce_sum(tf.where(valid, x, 0), every) / count
    difference = tf.where(valid, x - mean[0], 0)
    variance = tf.reduce_sum(tf.square(difference), every) / count
    return Moments(mean, variance, count, lambda sums: sums / count)


def moments_of_domains(x: TensorLike, domain: TensorLike, domains: int) -> Moments:
    """Mean and biased variance of each domain, over its examples in the batch.

    Parameters
    ----------
    x : tensor, shape (N, ..., C)
    domain : integer tensor, shape (N,)
        The domain of each example.
    domains : int
        How many there are, D; a domain without an example has mean, variance and count 0.

    Returns
    -------
    Moments
        With ``domains`` rows, one of them for each example.

    Raises
    ------
    tf.errors.InvalidArgumentError
        An index outside 0 … D - 1.
    """
    x = at_least_float32(not_empty(x))
    rows = rows_of_domains(domain, domains)
    count = rows.total(tf.ones_like(x[..., :1]))
    divisor = tf.maximum(count, 1)
    mean = rows.total(x) / divisor
    squares = tf.math.squared_difference(x, rows.spread(mean, x))
    return Moments(mean, rows.total(squares) / divisor, count, lambda sums: sums / divisor, rows)


def rows_of_domains(domain, domains):
    """Assign row d to the examples of domain d, after a check that all indices are in range.

    Parameters
    ----------
    domain : integer tensor, shape (N,)
    domains : int

    Returns
    -------
    Index
        Whose rows are named: a domain is the same in every batch and on every replica.

    Raises
    ------
    tf.errors.InvalidArgumentError
        An index lies outside. XLA leaves the check out.
    """
    domain = tf.cast(domain, tf.int64)
    inside = tf.reduce_all((domain >= 0) & (domain < domains))
    held = tf.debugging.Assert(inside, [f"domain must lie in 0 … {domains - 1}; received", domain])
    return Index(after(held, domain), domains, named=True)
