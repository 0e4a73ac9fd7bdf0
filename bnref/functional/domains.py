"""Moments of each domain of a batch in which domains are mixed."""

import tensorflow as tf

from bnref.functional.assignment import Index
from bnref.functional.batch import Moments
from bnref.functional.shapes import at_least_float32, not_empty

__all__ = ["moments_of_domains", "rows_of_domains"]


def moments_of_domains(x, domain, domains):
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
    """Row d for the examples of domain d, if every index lies in 0 … ``domains`` − 1.

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
    told = tf.debugging.Assert(inside, [f"domain must lie in 0 … {domains - 1}; received", domain])
    with tf.control_dependencies([told] if told is not None else []):
        return Index(tf.identity(domain), domains, named=True)
