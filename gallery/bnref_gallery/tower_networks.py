"""A small convolutional network in TensorFlow 1, and its training tower by tower."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bnref.tf1 import on_towers, training_step

__all__ = ["Classifier", "convolutions"]

v1 = tf.compat.v1


def convolutions(
    x: tf.Tensor, training: tf.Tensor, *, norm: Callable, filters: tuple = (32, 48, 96, 192),
    units: int = 128, classes: int = 10,
) -> tf.Tensor:  # fmt: skip
    """Classify images by convolutions, each followed by normalization and a ReLU.

    The first convolution has stride 2, the second and the third are followed by pooling over 2×2
    pixels, and a hidden layer follows the last. Every convolution has a bias, as is usual in the
    code of the time, though normalization takes it away.

    Parameters
    ----------
    x : tensor, shape (N, H, W, C)
    training : tensor, scalar, boolean
    norm : callable (x, training) -> tensor of the shape of x
        Such as those of `bnref.tf1.METHODS`, or ``lambda x, training: x``.
    filters : tuple of int
        Channels, one a convolution.
    units : int
        Of the hidden layer.
    classes : int

    Returns
    -------
    tensor, shape (N, classes)
        Logits.

    Raises
    ------
    ValueError
        If `norm` returns another shape than it was given.
    """
    for number, channels in enumerate(filters):
        with v1.variable_scope(f"conv_{number}"):
            size, stride = (4, 2) if number == 0 else (3, 1)
            x = tf.nn.relu(_normalized(norm, _convolution(x, channels, size, stride), training))
        if number in (1, 2):
            x = tf.nn.max_pool2d(x, 2, 2, "SAME")
    x = tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]])
    return _dense("logits", tf.nn.relu(_dense("hidden", x, units)), classes)


class Classifier:
    """A network on the towers of a placement: to be trained and tested in a session.

    Made within the graph that it is to be part of.

    Parameters
    ----------
    network : callable (x, training) -> logits, shape (N, classes)
        Such as `convolutions` with its `norm` given.
    placement
        Of `bnref.tf1.shared_memory` or `bnref.tf1.separate_memory`.
    optimizer : tf.compat.v1.train.Optimizer
    image_shape : tuple of int, (H, W, C)

    Attributes
    ----------
    x, y, training : placeholder
        Images, class numbers, and whether the batch normalizes itself.
    step : tf.Operation
        One step of training.
    losses, hits : list of tensors
        One a tower: its mean cross-entropy, and how many images of its share it names rightly.

    Raises
    ------
    ValueError
        If the network returns no logits, one row an image.
    """

    def __init__(
        self, network: Callable, *, placement: Any, optimizer: tf.compat.v1.train.Optimizer,
        image_shape: tuple[int, int, int] = (32, 32, 3),
    ):  # fmt: skip
        self.x = v1.placeholder(tf.float32, (None, *image_shape), "x")
        self.y = v1.placeholder(tf.int32, (None,), "y")
        self.training = v1.placeholder(tf.bool, (), "training")
        self._towers = len(placement.towers)

        def tower(x, y):
            logits = network(x, self.training)
            if logits.shape.rank != 2:
                raise ValueError(
                    f"network must return logits of shape (N, classes); received {logits.shape}"
                )
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            return tf.reduce_mean(losses), tf.math.count_nonzero(
                tf.equal(tf.argmax(logits, -1, tf.int32), y), dtype=tf.int32
            )

        outputs = on_towers(tower, self.x, self.y, placement=placement)
        self.losses, self.hits = (list(each) for each in zip(*outputs, strict=True))
        self.step = training_step(self.losses, optimizer=optimizer, placement=placement)

    def train(self, session: tf.compat.v1.Session, x: np.ndarray, y: np.ndarray) -> float:
        """Take one step on a batch and return its loss, the mean over the towers.

        Parameters
        ----------
        session : tf.compat.v1.Session
        x : array, shape (N, H, W, C)
        y : array, shape (N,)

        Raises
        ------
        ValueError
            If N is not a multiple of the number of towers.
        """
        _, losses = self._run(session, (self.step, self.losses), x, y, training=True)
        return sum(losses) / len(losses)

    def accuracy(
        self, session: tf.compat.v1.Session, x: np.ndarray, y: np.ndarray, *, batch_size: int = 500
    ) -> float:
        """Return the accuracy at inference; each tower tests its share of every batch.

        Parameters
        ----------
        session, x, y
            As in `train`.
        batch_size : int
            A multiple of the number of towers; so must be what is left over at the end.

        Raises
        ------
        ValueError
            If a batch is not such a multiple, or there is no image; before any is tested.
        """
        batches = [slice(first, first + batch_size) for first in range(0, len(x), batch_size)]
        for batch in [*batches, slice(None)]:  # all, before one runs and moves methods 1 and 3
            self._check_shared(len(x[batch]))
        hits = 0
        for batch in batches:
            hits += sum(self._run(session, self.hits, x[batch], y[batch], training=False))
        return hits / len(x)

    def _run(self, session, fetches, x, y, *, training):
        self._check_shared(len(x))
        return session.run(fetches, {self.x: x, self.y: y, self.training: training})

    def _check_shared(self, count):
        if count % self._towers or not count:
            raise ValueError(
                f"the batch must be a multiple of the number of towers, {self._towers}, above 0; "
                f"received {count}"
            )


def _convolution(x, channels, size, stride):
    shape = [size, size, x.shape[-1], channels]
    kernel = v1.get_variable("kernel", shape, initializer=v1.initializers.he_normal())
    bias = v1.get_variable("bias", [channels], initializer=v1.zeros_initializer())
    return tf.nn.conv2d(x, kernel, stride, "SAME") + bias


def _dense(name, x, units):
    with v1.variable_scope(name):
        kernel = v1.get_variable("kernel", [x.shape[-1], units])
        bias = v1.get_variable("bias", [units], initializer=v1.zeros_initializer())
        return tf.matmul(x, kernel) + bias


def _normalized(norm, x, training):
    normed = norm(x, training)
    if normed.shape.as_list() != x.shape.as_list():
        raise ValueError(f"norm must return the shape of x, {x.shape}; it returned {normed.shape}")
    return normed
