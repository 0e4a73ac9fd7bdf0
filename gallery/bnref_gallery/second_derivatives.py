"""Numbers that are made of a network's first derivatives: a gradient of one is a second derivative.

Each task is a function of a critic, its weights, inputs (N, H, W, 1) and targets (N,).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Critic", "TASKS"]


class Critic:
    """A convolution, a norm and an activation for each norm, and a mean: one score an example.

    Parameters
    ----------
    norms : sequence of callable (x, training) -> tensor of the shape of x
        Such as layers.
    activation : callable
    """

    def __init__(self, norms: Sequence[Callable], activation: Callable):
        self.norms, self.activation = norms, activation

    def __call__(self, weights: Any, x: tf.Tensor) -> tf.Tensor:
        """Scores, shape (N,), in training mode.

        Parameters
        ----------
        weights : tensor, shape (number of norms, 3, 3, 16, 16)
            All kernels.
        x : tensor, shape (N, H, W, 1)
            Cut into patches of 4×4, which are the 16 channels.
        """
        x = tf.nn.space_to_depth(x, 4)
        for kernel, norm in zip(tf.unstack(weights), self.norms, strict=True):
            x = self.activation(norm(tf.nn.conv2d(x, kernel, 1, "SAME"), training=True))
        return 4 * tf.reduce_mean(x, axis=(1, 2, 3))


def _loss(critic, weights, x, y):
    return tf.reduce_mean((critic(weights, x) - y) ** 2)


def _penalty(critic, weights, x, _):
    """That of WGAN-GP: how far the slope of each example's score is from length 1.

    Gulrajani et al. 2017, arXiv 1704.00028, section 4.
    """
    with tf.GradientTape() as tape:
        tape.watch(x)
        scores = critic(weights, x)
    lengths = tf.norm(tf.reshape(tape.gradient(scores, x), (len(x), -1)), axis=1)
    return tf.reduce_mean((lengths - 1) ** 2)


def _along_direction(critic, weights, x, y):
    """The slope of the loss along a random direction, whose gradient is the Hessian's product."""
    direction = np.random.default_rng(1).standard_normal(weights.shape).astype(x.dtype.name)
    return tf.reduce_sum(_slopes(critic, weights, x, y) * direction)


def _loss_after_a_step(critic, weights, x, y):
    """MAML's: the loss of the second half of the examples, after a step on the first.

    Finn et al. 2017, arXiv 1703.03400, section 2.2.
    """
    half = len(x) // 2
    slopes = _slopes(critic, weights, x[:half], y[:half])
    return _loss(critic, weights - 0.1 * slopes, x[half:], y[half:])


def _slopes(critic, weights, x, y):
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = _loss(critic, weights, x, y)
    return tape.gradient(loss, weights)


#: By their names; the last one has no derivative in it, so that its gradient is a first derivative.
TASKS: dict[str, Callable] = {
    "gradient penalty": _penalty,
    "Hessian times a vector": _along_direction,
    "MAML, outer gradient": _loss_after_a_step,
    "first derivative": _loss,
}
