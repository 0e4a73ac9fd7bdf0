"""Which norm stands on the logits of a classifier, as the numbers of one pass show it."""

from typing import Any

import keras
import numpy as np

from bnref.norms import Norm

Given = list[tuple[Norm, np.ndarray]]


def shaped_as_logits(y: Any) -> bool:
    """Whether the outputs of a norm have the shape of logits: (N, C)."""
    return len(y.shape) == 2


def norm_on_logits(given: Given, y: np.ndarray, targets: Any) -> Norm | None:
    """The norm whose outputs are the logits of a classifier, or None.

    Its outputs are those of the model, ``y``, or become them by a softmax or a sigmoid; and the
    targets are classes.
    """
    classes = targets is not None and np.asarray(targets).dtype.kind in "iub"
    for norm, each in reversed(given):
        if each.shape != y.shape or y.ndim != 2 or y.shape[1] < 2:
            continue
        softmax = np.allclose(keras.ops.softmax(each), y, atol=1e-5)
        sigmoid = np.allclose(keras.ops.sigmoid(each), y, atol=1e-5)
        if softmax or sigmoid or (classes and np.allclose(each, y, atol=1e-5)):
            return norm
    return None
