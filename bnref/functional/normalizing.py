"""Normalizing by moments from anywhere, with the gradient in closed form."""

import tensorflow as tf

from bnref.functional.each import normalize_each
from bnref.functional.shapes import check_type, rows

__all__ = ["normalize"]


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
    check_type(x)
    if moments.correction is not None:
        r, d = map(tf.stop_gradient, moments.correction)
        gamma, beta = gamma * r, gamma * d + beta
    # The numbers carry no gradient of their own: the closed form has it.
    mean, variance = tf.stop_gradient(moments.mean), tf.stop_gradient(moments.variance)
    moments = moments._replace(mean=mean, variance=variance)
    if moments.part is not None:
        return normalize_each(x, moments, gamma, beta, epsilon)
    if mean.shape.rank == 2:
        return _normalize_parts(x, moments, gamma, beta, epsilon)
    return _normalize_all(x, moments, gamma, beta, epsilon)


def _normalize_parts(x, moments, gamma, beta, epsilon):
    """Normalize equal parts of the batch, one after the other, each by its row."""
    with tf.control_dependencies([moments.mean]):  # made from parts that were checked
        x = tf.identity(x)
    shape = tf.shape(moments.mean)
    vectors = moments.mean, moments.variance, *(tf.broadcast_to(v, shape) for v in (gamma, beta))
    parts = zip(tf.split(x, moments.mean.shape[0]), *map(tf.unstack, vectors), strict=True)
    normalized = [
        _normalize_all(part, moments._replace(mean=mean, variance=variance), *affine, epsilon)
        for part, mean, variance, *affine in parts
    ]
    return tf.concat(normalized, 0)


def _normalize_all(x, moments, gamma, beta, epsilon):
    """Normalize the whole of x by moments of shape (C,)."""
    mean, variance = moments.mean, moments.variance

    @tf.custom_gradient
    def normalized(x, gamma, beta):
        def gradient(dy):
            dx, dgamma, dbeta = _apply_gradient(dy, x, mean, variance, gamma, epsilon)
            if moments.average is not None:
                along_one, along_x = tf.unstack(moments.average(tf.stack([dbeta, dgamma])))
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
        dgamma = tf.reduce_sum(rows(dy * (x - mean)), 0) * inverse
        return dy * (gamma * inverse), dgamma, tf.reduce_sum(rows(dy), 0)
    dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=_as_image(dy), x=_as_image(x), scale=gamma, reserve_space_1=mean,
        reserve_space_2=variance, reserve_space_3=variance, epsilon=epsilon, is_training=False,
    )  # fmt: skip
    return tf.reshape(dx, tf.shape(x)), dgamma, dbeta


def _as_image(x):
    """The kernels take (N, H, W, C); the other axes are all alike to them, so one is enough."""
    return x if x.shape.rank == 4 else tf.reshape(x, (-1, 1, 1, x.shape[-1]))
