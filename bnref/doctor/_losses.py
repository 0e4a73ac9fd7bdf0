"""The loss by which two ways to normalize are compared."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

NESTED = dict, list, tuple


def loss_function(model: Any, loss: Any, y: Any, outputs: Any) -> Callable | None:
    """A function of (y, outputs) that gives the mean loss of a batch as a number, or None.

    The caller's, else the one that the model was compiled with, else what fits the targets: cross
    entropy for classes, the squared error for numbers of the outputs' shape.
    """
    if y is None:
        return None
    chosen = loss if loss is not None else getattr(model, "loss", None)
    if loss is None and (isinstance(chosen, NESTED) or isinstance(outputs, NESTED)):
        # Several outputs: only Keras knows which loss is whose.
        if chosen is None:
            return None
        return lambda y, outputs: float(model.compute_loss(y=y, y_pred=outputs))
    chosen = _fitting(y, outputs) if chosen is None else chosen
    if chosen is None:
        return None
    function = keras.losses.get(chosen) if isinstance(chosen, str) else chosen
    if not callable(function):
        raise ValueError(f"loss must be a function, a Keras loss or its name; received {loss!r}")

    def mean(y, outputs):
        return float(np.mean(np.asarray(function(_ranked(y, outputs), outputs), "float64")))

    return mean


def _ranked(y, outputs):
    """Targets of shape (N,) for outputs of shape (N, 1), and the reverse, as Keras's losses do."""
    if isinstance(outputs, NESTED):  # the caller's own loss knows what it is given
        return y
    y, shape = np.asarray(y), np.shape(outputs)
    return y.reshape(shape) if y.ndim != len(shape) and y.size == np.prod(shape) else y


def _fitting(y, outputs):
    y, outputs = np.asarray(y), np.asarray(outputs, "float64")
    if outputs.ndim < 1:
        return None
    whole = y.dtype.kind in "iub" or bool(np.all(y == np.round(y)))
    if y.shape == outputs.shape[:-1] and whole and outputs.shape[-1] > 1:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=not _probabilities(outputs))
    if y.shape != outputs.shape and y.size != outputs.size:
        return None
    if y.ndim > 1 and y.shape[-1] > 1 and np.all((y == 0) | (y == 1)) and (y.sum(-1) == 1).all():
        return keras.losses.CategoricalCrossentropy(from_logits=not _probabilities(outputs))
    if np.all((y == 0) | (y == 1)) and len(np.unique(y)) == 2:
        inside = bool((outputs >= 0).all() and (outputs <= 1).all())
        loss = keras.losses.BinaryCrossentropy(from_logits=not inside)
        return lambda y, outputs: loss(np.reshape(y, outputs.shape), outputs)
    return keras.losses.MeanSquaredError() if y.shape == outputs.shape else None


def _probabilities(outputs):
    """Whether a softmax has been taken already."""
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(-1), 1, atol=1e-3))
