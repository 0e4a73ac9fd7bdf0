"""What each norm of a model is given, when batches pass through it."""

import contextlib
from functools import partial
from typing import Any

import numpy as np

from bnref.norms._calling import called
from bnref.norms._finding import find


def inputs(model: Any, *x: Any, training: bool = False) -> dict[str, list[np.ndarray]]:
    """Return what each batch norm of a model is given when the model is called.

    It works for any model: functional, nested, subclassed. (For a functional one alone,
    ``keras.Model(model.input, [layer.input for layer in norms])`` does the same.)

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        Built.
    *x
        What the model is called with: one batch, or, of several inputs by position, a batch each.
    training : bool
        Whether it is called in training mode. Populations move then, as in any such call, unless
        it is within `bnref.population.unchanged`.

    Returns
    -------
    dict of list of arrays
        By `Norm.path`, an array for each call of that norm; none where it was not called.

    Raises
    ------
    ValueError
        `model` is no Keras model.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="norm")])
    >>> [[each]] = inputs(model, np.array([[1.0, 2.0], [3.0, 4.0]])).values()
    >>> each.mean(0)
    array([2., 3.], dtype=float32)
    """
    norms = find(model)
    given: dict[str, list[np.ndarray]] = {norm.path: [] for norm in norms}
    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(called(norm.layer, partial(_noted, given[norm.path])))
        model(*x, training=training)
    return given


def _noted(arrays, original, arguments):
    arrays.append(np.asarray(arguments.args[0]))
    return original(*arguments.args, **arguments.kwargs)
