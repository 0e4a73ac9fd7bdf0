"""Normalizing every example by moments of its own."""

import tensorflow as tf

from bnref.functional.shapes import by_example

__all__ = []


def normalize_each(x, moments, gamma, beta, epsilon):
    """Normalize each example by its row, ``moments.part``: `normalize`, written out.

    The kernel of `normalize` takes one mean a channel, so this is the formula and its closed-form
    gradient, by broadcasting. ``gamma`` and ``beta`` have shape (C,), or rows like the moments.
    """
    shape, part = tf.shape(x), moments.part

    def row(vector):
        return tf.gather(vector, part)[:, None] if vector.shape.rank == 2 else vector

    mean, inverse = row(moments.mean), row(tf.math.rsqrt(moments.variance + epsilon))

    @tf.custom_gradient
    def normalized(x, gamma, beta):
        def gradient(dy):
            dy, x_hat = by_example(dy), (by_example(x) - mean) * inverse
            dx, sums = dy, tf.stack([tf.reduce_sum(dy, 1), tf.reduce_sum(dy * x_hat, 1)])
            if moments.average is not None:
                along_one, along_x = tf.unstack(moments.average(sums))
                dx = dy - along_one[:, None] - x_hat * along_x[:, None]
            dx = tf.cast(tf.reshape(dx * gamma * inverse, shape), x.dtype)
            return dx, sums[1][:, None], sums[0][:, None]

        y = (by_example(x) - mean) * (gamma * inverse) + beta
        return tf.cast(tf.reshape(y, shape), x.dtype), gradient

    # One row of γ and β an example, so that autodiff adds the rows up again.
    rows = tf.zeros((shape[0], 1, gamma.shape[-1]), gamma.dtype)
    return normalized(x, row(gamma) + rows, row(beta) + rows)
