"""Passes in training mode that the population is not to remember."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

_METHODS = "assign", "assign_add", "assign_sub"
_lock = threading.Lock()
_patched: Counter = Counter()  # how many contexts, of all threads, hold a variable
_held = threading.local()  # which variables this thread must not move


@contextlib.contextmanager
def unchanged(model: keras.layers.Layer) -> Iterator[None]:
    """Leave the population of ``model`` as it is during the passes made within.

    Question 2, *remembered how?*: not at all. For passes in training mode whose statistics must not
    count: pseudo-labels and other data without labels, the second pass of SAM, a gradient penalty,
    a validation loss in training mode. The batch normalizes as ever. ::

        with bnref.population.unchanged(model):
            logits = model(unlabelled, training=True)

    Parameters
    ----------
    model : keras.Model or layer
        Every layer in it that has a ``moving_mean`` is held: those of `bnref.layers`, Keras's and
        tf_keras's, with all their variables that are not trained.

    Raises
    ------
    ValueError
        `model` has no such layer.
    RuntimeError
        The population moved all the same, by a function that was traced outside, such as
        ``model.predict`` or an own ``tf.function``: it does what it was traced to do. Put the
        ``with`` inside the function. (Said when execution is eager; the values before are put back
        where there is one replica.)

    Notes
    -----
    May be nested, and used within ``tf.function`` and ``strategy.run``. It holds for the thread
    that opened it. An optimizer's own changes are not held: they are to variables that are trained.
    """
    layers = [each for each in model._flatten_layers() if hasattr(each, "moving_mean")]
    if not layers:
        raise ValueError(f"model must have a layer with a moving_mean; found none in {model!r}")
    variables = [each for layer in layers for each in _not_trained(layer)]
    before = [each.numpy() for each in variables] if tf.executing_eagerly() else None
    own = _own()
    with _lock:
        for variable in variables:
            _hold(variable, own)
    try:
        yield
    finally:
        with _lock:
            for variable in variables:
                _release(variable, own)
    if before is not None:
        _check(variables, before)


def _own():
    if not hasattr(_held, "number"):
        _held.number = Counter()
    return _held.number


def _not_trained(layer):
    learnt = [id(each) for each in (getattr(layer, "gamma", None), getattr(layer, "beta", None))]
    return [each for each in layer.non_trainable_variables if id(each) not in learnt]


def _hold(variable, own):
    own[id(variable)] += 1
    _patched[id(variable)] += 1
    if _patched[id(variable)] == 1:
        for name in _METHODS:
            if hasattr(variable, name):
                setattr(variable, name, _unless_held(variable, getattr(variable, name)))


def _release(variable, own):
    own[id(variable)] -= 1
    _patched[id(variable)] -= 1
    if not _patched[id(variable)]:
        del _patched[id(variable)]
        for name in _METHODS:
            vars(variable).pop(name, None)


def _unless_held(variable, method):
    def assign(*arguments, **options):
        return variable if _own()[id(variable)] else method(*arguments, **options)

    return assign


def _check(variables, before):
    moved = [
        (variable, value)
        for variable, value in zip(variables, before, strict=True)
        if not np.array_equal(variable.numpy(), value, equal_nan=True)
    ]
    if not moved:
        return
    for variable, value in moved:
        stored = variable if isinstance(variable, tf.Variable) else variable.value
        if not hasattr(stored, "values"):  # those of several replicas, which may differ
            variable.assign(value)
    raise RuntimeError(
        f"{moved[0][0].name} and {len(moved) - 1} more of the population moved within "
        "unchanged(model), by a function that was traced outside of it: use it inside that function"
    )
