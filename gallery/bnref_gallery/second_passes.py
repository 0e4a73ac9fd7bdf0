"""Training steps that pass a model twice in training mode: their gradients, by the second pass."""

from collections.abc import Callable

import keras
import tensorflow as tf

__all__ = ["pseudo_labels", "sam"]


def pseudo_labels(
    second: Callable, model: keras.Model, x: tf.Tensor, y: tf.Tensor, unlabelled: tf.Tensor
) -> list:
    """The gradients of a step that also learns from what the model takes other images for.

    The loss is the cross entropy of the labelled images, and 0.3 times that of the others with the
    classes that the model gives them.

    Parameters
    ----------
    second : callable (model, x) -> logits
        The pass over `unlabelled`; that over `x` is ``model(x, training=True)``.
    model : keras.Model
        From images to logits.
    x, y, unlabelled : tensor
        Images with their classes, and images without.

    Returns
    -------
    list of tensor
        For each of the model's trainable variables.
    """
    of_labelled = _gradients(_remembered, model, x, y)
    of_others = _gradients(second, model, unlabelled)
    return [one + 0.3 * other for one, other in zip(of_labelled, of_others, strict=True)]


def sam(
    second: Callable, model: keras.Model, x: tf.Tensor, y: tf.Tensor,
    unlabelled: tf.Tensor | None = None, *, radius: float = 0.05,
) -> list:  # fmt: skip
    """The gradients of sharpness-aware minimization: those at weights a little uphill.

    Parameters
    ----------
    second : callable (model, x) -> logits
        The pass at these weights; that before is ``model(x, training=True)``.
    model, x, y
        As for `pseudo_labels`.
    unlabelled
        Not used: both functions are called alike.
    radius : float
        How far uphill, as the norm of all weights' moves together.

    Returns
    -------
    list of tensor
        For each of the model's trainable variables, which end as they were, but for rounding.

    Notes
    -----
    Foret et al. 2021, arXiv 2010.01412, Algorithm 1.
    """
    first, variables = _gradients(_remembered, model, x, y), model.trainable_variables
    length = tf.linalg.global_norm(first)
    moves = [radius * each / length for each in first]
    for variable, move in zip(variables, moves, strict=True):
        variable.assign_add(move)
    found = _gradients(second, model, x, y)
    for variable, move in zip(variables, moves, strict=True):
        variable.assign_sub(move)
    return found


def _remembered(model, x):
    return model(x, training=True)


def _gradients(forward, model, x, y=None):
    """Of the cross entropy; without targets these are the classes that the model chooses."""
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        logits = forward(model, x)
        loss = cross_entropy(tf.argmax(logits, axis=1) if y is None else y, logits)
    return tape.gradient(loss, model.trainable_variables)
