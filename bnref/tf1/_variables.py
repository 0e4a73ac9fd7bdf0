"""The variables and moments that the functions of the post share."""

import tensorflow as tf

v1 = tf.compat.v1


def scale_and_shift(x):
    """Return gamma and beta, of shape (C,)."""
    channels = [x.shape[-1]]
    beta = v1.get_variable("beta", channels, initializer=v1.zeros_initializer())
    gamma = v1.get_variable("gamma", channels, initializer=v1.ones_initializer())
    return gamma, beta


def statistic(name, x, *, initial=0.0, trainable=False):
    """Return a variable of shape (C,) that no optimizer trains, unless it is said to."""
    initializer = v1.constant_initializer(initial)
    return v1.get_variable(name, [x.shape[-1]], initializer=initializer, trainable=trainable)


def batch_moments(x):
    """Return mean and biased variance over all axes but the last, each of shape (C,)."""
    return tf.nn.moments(x, list(range(len(x.shape) - 1)))
