"""Moments of a batch: of all of it, of its groups, of each example."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from bnref.functional._inputs import TensorLike, after, at_least_float32, checked, not_empty
from bnref.functional._rows import Groups, Index


class Moments(NamedTuple):
    """Mean and variance of each channel, and whose they are.

    Attributes
    ----------
    mean, variance : tensor, shape (G, C)
        One row for all examples, or more; ``rows`` says which example has which. The variance is
        the biased one: the sum of squares is divided by ``count``.
    count : tensor of shape (G, 1), or None
        How many values each channel's moments were taken from; 0 says that the row means nothing,
        and its mean and variance may then be NaN. None for population statistics.
    average : callable or None
        Turns sums over the values that a row normalizes, shape (2, G, C) or (2, 1, C) of any one
        row of equal groups, into averages over the values whose moments these are: division by
        ``count`` for one replica, preceded by a sum over replicas for several. None says that the
        moments do not depend on the inputs (population statistics), and then no gradient flows
        through them.
    rows : Groups or Index
        Which row normalizes which example.
    correction : pair of tensors like ``mean``, or None
        r and d of batch renormalization: x̂·r + d stands for x̂. Constants to the gradient.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor | None = None  # type: ignore[assignment]  # a tuple's method is not needed
    average: Callable[[tf.Tensor], tf.Tensor] | None = None
    rows: Groups | Index = Groups()
    correction: tuple[tf.Tensor, tf.Tensor] | None = None

    def pooled(self) -> "Moments":
        r"""One row for all examples together; named rows, those of domains, are kept as they are.

        .. math:: \mu = \sum_g \frac{n_g}{n} \mu_g, \qquad
                  \sigma^2 = \sum_g \frac{n_g}{n}\left(\sigma_g^2 + (\mu_g - \mu)^2\right)

        To be remembered: no gradient flows through it. Chan, Golub & LeVeque 1983, The American
        Statistician 37, equation 2.1.
        """
        if self.rows.named:
            return self
        counts = self.count * tf.ones_like(self.mean[:, :1])
        mean, variance = combined(counts, self.mean, self.variance)
        return Moments(mean[None], variance[None], tf.reduce_sum(counts, 0, keepdims=True))


def combined(counts, means, variances):
    """Combine moments along the first axis into those of all values together, by Chan's formula.

    What has the count 0 has no part in the result.

    Nothing cancels where the mean is large, as it does in E[x²] − E[x]².
    """
    weights = tf.math.divide_no_nan(counts, tf.reduce_sum(counts, 0))
    mean = tf.reduce_sum(tf.math.multiply_no_nan(means, weights), 0)
    spread = variances + tf.math.squared_difference(means, mean)
    return mean, tf.reduce_sum(tf.math.multiply_no_nan(spread, weights), 0)


def moments(x: TensorLike) -> Moments:
    r"""Mean and biased variance of each channel over all other axes.

    .. math:: \mu = \frac1n \sum_i x_i, \qquad \sigma^2 = \frac1n \sum_i (x_i - \mu)^2

    The variance is taken in a second pass around the mean. The one-pass form
    :math:`E[x^2] - E[x]^2` saves a pass and loses all digits once the mean is some thousand
    standard deviations from zero. Both can be differentiated any number of times, which those of
    ``tf.nn.moments`` cannot: it stops the gradient at the mean inside the variance.

    Parameters
    ----------
    x : tensor or array, shape (N, ..., C), floating point
        float16 and bfloat16 are summed in float32.

    Returns
    -------
    Moments
        With one row, float64 for float64 inputs and float32 otherwise. A batch without an example,
        which one of several replicas may get, has the count 0.

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
    return moments_of_groups(x, 1)


def moments_of_groups(x: TensorLike, groups: int) -> Moments:
    """`moments` of each of ``groups`` equal groups of the batch, one after the other.

    Parameters
    ----------
    x : tensor, shape (N, ..., C)
    groups : int
        A divisor of N.

    Returns
    -------
    Moments
        With ``groups`` rows. Nothing is copied: a group is a view of the batch.

    Raises
    ------
    ValueError, tf.errors.InvalidArgumentError
        `groups` does not divide N; else as `moments`.

    Notes
    -----
    Hoffer et al. 2017, arXiv 1705.08741, Algorithm 1.
    """
    x, rows = _divisible(not_empty(x), groups), Groups(groups)
    each = [_of_all(group) for group in rows.split(x)]
    means, variances = (tf.stack(values) for values in zip(*each, strict=True))
    size = x.shape[:-1].num_elements() or tf.size(x) / x.shape[-1]
    size = tf.cast(size / groups, means.dtype)
    return Moments(means, variances, tf.fill((groups, 1), size), lambda sums: sums / size, rows)


def _of_all(x):
    values = tf.reshape(at_least_float32(x), (-1, x.shape[-1]))
    mean = tf.reduce_mean(values, 0)
    return mean, tf.reduce_mean(tf.math.squared_difference(values, mean), 0)


def _divisible(x, groups):
    message = f"groups must divide the batch; received groups={groups} for a batch of"
    if groups == 1:
        return x
    if x.shape[0] is None:
        return after(
            tf.debugging.assert_equal(tf.shape(x)[0] % groups, 0, f"{message} another size"), x
        )
    if x.shape[0] % groups:
        raise ValueError(f"{message} {x.shape[0]}")
    return x


def moments_of_examples(x: TensorLike) -> Moments:
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
    x = at_least_float32(checked(x))
    positions = range(1, x.shape.rank - 1)
    mean = tf.reduce_mean(x, positions, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), positions)
    size = tf.shape(x)[0]
    count = tf.fill((size, 1), tf.cast(tf.reduce_prod(tf.shape(x)[1:-1]), x.dtype))
    rows = Index(tf.range(size), size)
    mean = tf.reshape(mean, tf.shape(variance))
    return Moments(mean, variance, count, lambda sums: sums / count, rows)
