"""Moments of each domain of a batch in which domains are mixed."""

import tensorflow as tf

from bnref.functional.batch import Moments
from bnref.functional.shapes import by_example, not_empty

__all__ = ["checked_domain", "moments_of_domains"]


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
        With ``domains`` rows, and ``part`` the domain of each example.

    Raises
    ------
    tf.errors.InvalidArgumentError
        An index outside 0 … D - 1.
    """
    values = by_example(not_empty(x))
    domain = checked_domain(domain, domains)
    positions = tf.cast(tf.shape(values)[1], values.dtype)
    count = positions * _sum_by_domain(tf.ones_like(values[:, 0, :1]), domain, domains)

    def average(sums):
        total = _sum_by_domain(sums, domain, domains, axis=1)
        return tf.gather(total / tf.maximum(count, 1), domain, axis=1)

    mean = _sum_by_domain(tf.reduce_sum(values, 1), domain, domains) / tf.maximum(count, 1)
    squares = tf.math.squared_difference(values, tf.gather(mean, domain)[:, None])
    squares = _sum_by_domain(tf.reduce_sum(squares, 1), domain, domains)
    return Moments(mean, squares / tf.maximum(count, 1), count, average, part=domain)


def _sum_by_domain(values, domain, domains, axis=0):
    if axis:
        return tf.stack([_sum_by_domain(each, domain, domains) for each in tf.unstack(values)])
    return tf.math.unsorted_segment_sum(values, domain, domains)


def checked_domain(domain, domains):
    """``domain``, if every index lies in 0 … ``domains`` − 1; XLA leaves the check out.

    Raises
    ------
    tf.errors.InvalidArgumentError
        One does not.
    """
    domain = tf.cast(domain, tf.int64)
    inside = tf.reduce_all((domain >= 0) & (domain < domains))
    told = tf.debugging.Assert(inside, [f"domain must lie in 0 … {domains - 1}; received", domain])
    with tf.control_dependencies([told] if told is not None else []):
        return tf.identity(domain)
