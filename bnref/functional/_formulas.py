"""Normalizing and its first derivative, twice: by plain operations, and by TensorFlow's kernels.

The plain operations are the formulas. They can be differentiated any number of times and serve
every assignment of rows to examples. The kernels do the same in fewer passes over memory, for
float32 and half precision; they can be differentiated once, with fixed statistics.
"""

import tensorflow as tf

from bnref.functional._inputs import at_least_float32
from bnref.functional._rows import Groups


def normalized(x, moments, gamma, beta, epsilon):
    """γ x̂ + β, each example by its row."""
    rows, dtype = moments.rows, x.dtype
    x, scale = at_least_float32(x), gamma * tf.math.rsqrt(moments.variance + epsilon)
    y = (x - rows.spread(moments.mean, x)) * rows.spread(scale, x) + rows.spread(beta, x)
    return tf.cast(y, dtype)


def first_derivative(dy, x, moments, gamma, epsilon):
    """The three gradients of Σ dy·y: dx of the shape of x, dγ and dβ of shape (G, C)."""
    rows, dtype = moments.rows, x.dtype
    x, dy = at_least_float32(x), at_least_float32(dy)
    inverse = tf.math.rsqrt(moments.variance + epsilon)
    x_hat = (x - rows.spread(moments.mean, x)) * rows.spread(inverse, x)
    dgamma, dbeta = rows.total(dy * x_hat), rows.total(dy)
    dx = dy
    if moments.average is not None:
        along_one, along_x = tf.unstack(moments.average(tf.stack([dbeta, dgamma])))
        dx = dy - rows.spread(along_one, x) - x_hat * rows.spread(along_x, x)
    return tf.cast(dx * rows.spread(gamma * inverse, x), dtype), dgamma, dbeta


def second_derivative(upstream, dy, x, moments, gamma, epsilon):
    """The five gradients of Σ u·dx + Σ u_γ·dγ + Σ u_β·dβ, by dy, x, μ, σ² and γ.

    dx, dγ and dβ are `first_derivative`, and u, u_γ, u_β are `upstream`. With w = u·γ/√(σ²+ε), k
    for what multiplies γ/√(σ²+ε) and q for what multiplies x̂ in them, and as A is symmetric:

    dy: w + u_β − A(w) + x̂·(u_γ − A(w·x̂)), x: q/√(σ²+ε), and so on by the chain rule.
    """
    rows, dtypes = moments.rows, (dy.dtype, x.dtype)
    u, u_gamma, u_beta = (at_least_float32(each) for each in upstream)
    x, dy = at_least_float32(x), at_least_float32(dy)
    inverse = tf.math.rsqrt(moments.variance + epsilon)
    centred = x - rows.spread(moments.mean, x)
    x_hat, w = centred * rows.spread(inverse, x), u * rows.spread(gamma * inverse, x)
    q, k = 0.0, dy
    if moments.average is not None:
        along_one, along_x = tf.unstack(
            moments.average(tf.stack([rows.total(dy), rows.total(dy * x_hat)]))
        )
        w_one, w_x = tf.unstack(moments.average(tf.stack([rows.total(w), rows.total(w * x_hat)])))
        u_beta, u_gamma = u_beta - w_one, u_gamma - w_x
        q = -w * rows.spread(along_x, x)
        k = dy - rows.spread(along_one, x) - x_hat * rows.spread(along_x, x)
    q, k = q + dy * rows.spread(u_gamma, x), rows.total(u * k)
    by_dy = w + rows.spread(u_beta, x) + x_hat * rows.spread(u_gamma, x)
    by_inverse = k * gamma + rows.total(q * centred)
    by_x, by_mean = q * rows.spread(inverse, x), -rows.total(q) * inverse
    by_variance = -by_inverse * inverse**3 / 2
    return tf.cast(by_dy, dtypes[0]), tf.cast(by_x, dtypes[1]), by_mean, by_variance, k * inverse


def fastest(x, moments):
    """`normalized` and `first_derivative`, by kernels where there are some for the case."""
    if isinstance(moments.rows, Groups) and x.dtype != tf.float64:
        return normalized_by_kernels, first_derivative_by_kernels
    return normalized, first_derivative


def normalized_by_kernels(x, moments, gamma, beta, epsilon):
    """As `normalized`: one pass over memory for each group of the batch."""
    if moments.average is None and x.shape.rank != 4:
        # Converters such as TFLite's fold a product and a sum into the layer before, and no kernel.
        return _line(x, moments, gamma, beta, epsilon)
    groups = [_kernel(*group, epsilon) for group in _by_group(x, moments, gamma, beta)]
    return groups[0] if len(groups) == 1 else tf.concat(groups, 0)


def first_derivative_by_kernels(dy, x, moments, gamma, epsilon):
    """As `first_derivative`, group by group, so that one which fits the cache stays there."""
    groups = zip(moments.rows.split(dy), _by_group(x, moments, gamma), strict=True)
    derivatives = [
        _derivative_of_group(dy_of_group, *group, moments.average, epsilon)
        for dy_of_group, group in groups
    ]
    dx, dgamma, dbeta = zip(*derivatives, strict=True)
    dx = dx[0] if len(dx) == 1 else tf.concat(dx, 0)
    return dx, tf.stack(dgamma), tf.stack(dbeta)


def _derivative_of_group(dy, x, mean, variance, gamma, average, epsilon):
    """The first derivative of one group, by two calls of a kernel.

    The first gives γ·dy/√(σ²+ε) and both sums, which ``average`` turns into averages. What is to be
    subtracted, A(dy) + x̂·A(dy·x̂), is a straight line in x, so the normalizing kernel computes it.
    """
    dx, dgamma, dbeta = _kernel_of_derivative(dy, x, mean, variance, gamma, epsilon)
    along_one, along_x = tf.unstack(average(tf.stack([dbeta, dgamma])[:, None])[:, 0])
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    dx -= _kernel(x, mean, variance, scale * along_x, scale * along_one, epsilon)
    return dx, dgamma, dbeta


def _by_group(x, moments, *vectors):
    """For each group: its examples, and its row of mean, variance and the vectors."""
    vectors = map(tf.unstack, (moments.mean, moments.variance, *vectors))
    return zip(moments.rows.split(x), *vectors, strict=True)


def _kernel(x, mean, variance, gamma, beta, epsilon):
    y = tf.raw_ops.FusedBatchNormV3(
        x=_as_image(x), scale=gamma, offset=beta, mean=mean, variance=variance,
        epsilon=epsilon, is_training=False,
    ).y  # fmt: skip
    return y if x.shape.rank == 4 else tf.reshape(y, tf.shape(x))


def _kernel_of_derivative(dy, x, mean, variance, gamma, epsilon):
    dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=_as_image(dy), x=_as_image(x), scale=gamma, reserve_space_1=mean,
        reserve_space_2=variance, reserve_space_3=variance, epsilon=epsilon, is_training=False,
    )  # fmt: skip
    return (dx if x.shape.rank == 4 else tf.reshape(dx, tf.shape(x))), dgamma, dbeta


def _line(x, moments, gamma, beta, epsilon):
    rows, scale = moments.rows, gamma * tf.math.rsqrt(moments.variance + epsilon)
    offset = beta - moments.mean * scale
    y = at_least_float32(x) * rows.spread(scale, x) + rows.spread(offset, x)
    return tf.cast(y, x.dtype)


def _as_image(x):
    """``x`` as (N, H, W, C), which the kernels take; all axes but the last are alike to them."""
    return x if x.shape.rank == 4 else tf.reshape(x, (-1, 1, 1, x.shape[-1]))
