r"""Pure tensor functions under every layer: moments, and normalizing by them.

A batch-normalization layer computes :math:`y = \gamma\hat x + \beta` with
:math:`\hat x = (x - \mu)/\sqrt{\sigma^2 + \varepsilon}`. What differs between the variants is where
:math:`\mu` and :math:`\sigma^2` come from, so a `Moments` carries the numbers together with the way
a sum over the batch becomes an average over the examples they were taken from.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

__all__ = ["Moments", "moments", "normalize"]


class Moments(NamedTuple):
    """Mean and variance of each channel, and whose they are.

    Attributes
    ----------
    mean, variance : tensor, shape (C,)
        The variance is the biased one: the sum of squares is divided by ``count``.
    count : scalar tensor or None
        How many values each channel's moments were taken from. None for population statistics.
    average : callable or None
        Turns a sum over this call's inputs, shape (..., C), into the average over the examples
        whose moments these are: division by ``count`` for one replica, preceded by a sum over
        replicas for several. None says that the moments do not depend on the inputs (population
        statistics), and then no gradient flows through them.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor | None = None
    average: Callable[[tf.Tensor], tf.Tensor] | None = None


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
    rows = _rows(tf.convert_to_tensor(x))
    count = tf.cast(tf.shape(rows)[0], rows.dtype)
    mean = tf.reduce_mean(rows, 0)
    variance = tf.reduce_mean(tf.math.squared_difference(rows, mean), 0)
    return Moments(mean, variance, count, lambda total: total / count)


def normalize(x, moments, gamma, beta, *, epsilon):
    r"""Normalize each channel by the moments given, scale and shift it.

    .. math:: y = \gamma \hat x + \beta, \qquad \hat x = \frac{x - \mu}{\sqrt{\sigma^2+\varepsilon}}

    Where the moments are constants the gradient is :math:`dx_0 = \gamma\,dy/\sqrt{\sigma^2 +
    \varepsilon}`. Where they are those of the batch, every input moves them, and the chain rule
    through :math:`\mu` and :math:`\sigma^2` takes away the part of it that lies along 1 and along
    :math:`\hat x`. With A the average over the examples the moments come from:

    .. math::
        \frac{\partial\mu}{\partial x_j} = \frac1n, \quad
        \frac{\partial\sigma^2}{\partial x_j} = \frac{2 (x_j - \mu)}{n}
        \quad\Longrightarrow\quad
        dx = \frac{\gamma}{\sqrt{\sigma^2+\varepsilon}}
             \bigl(dy - A(dy) - \hat x\, A(dy\, \hat x)\bigr)

    and :math:`d\beta = \sum dy`, :math:`d\gamma = \sum dy\,\hat x`, which are the two sums that A
    needs anyway. Only x and vectors of C numbers are kept for the backward pass.

    Parameters
    ----------
    x : tensor or array, shape (N, ..., C)
    moments : Moments
        Treated as constants if ``moments.average`` is None, as functions of `x` otherwise.
    gamma, beta : tensor or array, shape (C,)
        Like the moments float32, or float64 where `x` is.
    epsilon : float
        Added to the variance.

    Returns
    -------
    tensor of the shape and type of `x`

    Raises
    ------
    ValueError
        `x` is not floating point.

    Notes
    -----
    Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1, last two lines, and the gradients of
    section 3, summed up. No gradient is returned for the moments themselves.
    """
    x, gamma, beta = map(tf.convert_to_tensor, (x, gamma, beta))
    _check_type(x)
    mean, variance = tf.stop_gradient(moments.mean), tf.stop_gradient(moments.variance)

    @tf.custom_gradient
    def normalized(x, gamma, beta):
        def gradient(dy):
            dx, dgamma, dbeta = _apply_gradient(dy, x, mean, variance, gamma, epsilon)
            if moments.average is not None:
                along_one, along_x = moments.average(dbeta), moments.average(dgamma)
                scale = gamma * tf.math.rsqrt(variance + epsilon)
                dx -= _apply(x, mean, variance, scale * along_x, scale * along_one, epsilon)
            return dx, dgamma, dbeta

        return _apply(x, mean, variance, gamma, beta, epsilon), gradient

    return normalized(x, gamma, beta)


def _apply(x, mean, variance, gamma, beta, epsilon):
    """γ x̂ + β by given statistics, in one pass over memory where TensorFlow has a kernel for it."""
    if x.dtype == tf.float64:
        return (x - mean) * (gamma * tf.math.rsqrt(variance + epsilon)) + beta
    y = tf.raw_ops.FusedBatchNormV3(
        x=_as_image(x), scale=gamma, offset=beta, mean=mean, variance=variance,
        epsilon=epsilon, is_training=False,
    ).y  # fmt: skip
    return tf.reshape(y, tf.shape(x))


def _apply_gradient(dy, x, mean, variance, gamma, epsilon):
    """Gradient of `_apply` with the statistics held fixed: γ dy/√(σ²+ε), Σ dy x̂ and Σ dy."""
    if x.dtype == tf.float64:
        inverse = tf.math.rsqrt(variance + epsilon)
        dgamma = tf.reduce_sum(_rows(dy * (x - mean)), 0) * inverse
        return dy * (gamma * inverse), dgamma, tf.reduce_sum(_rows(dy), 0)
    dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=_as_image(dy), x=_as_image(x), scale=gamma, reserve_space_1=mean,
        reserve_space_2=variance, reserve_space_3=variance, epsilon=epsilon, is_training=False,
    )  # fmt: skip
    return tf.reshape(dx, tf.shape(x)), dgamma, dbeta


def _as_image(x):
    """The kernels take (N, H, W, C); the other axes are all alike to them, so one is enough."""
    return x if x.shape.rank == 4 else tf.reshape(x, (-1, 1, 1, x.shape[-1]))


def _rows(x):
    """`x` as (examples and positions, C), at least float32, checked."""
    _check_type(x)
    if x.shape.rank is None or x.shape.rank < 2:
        raise ValueError(f"x must have shape (N, ..., C), two axes or more; received {x.shape}")
    rows = tf.reshape(x, (-1, x.shape[-1]))
    if rows.shape[0] == 0:
        raise ValueError(f"x must hold at least one example; received shape {x.shape}")
    if rows.shape[0] is None:
        # The graph of a batch of any size: only a run can tell. (XLA leaves assertions out.)
        told = tf.debugging.assert_positive(tf.size(x), "x must hold at least one example")
        with tf.control_dependencies([told]):
            rows = tf.identity(rows)
    return rows if x.dtype == tf.float64 else tf.cast(rows, tf.float32)


def _check_type(x):
    if not x.dtype.is_floating:
        raise ValueError(f"x must be floating point; received {x.dtype.name}")
