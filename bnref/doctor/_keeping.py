"""A model that comes back as it was: variables, those of the optimizer, the state of randomness."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from bnref.doctor._randomness import randomness_kept


@contextlib.contextmanager
def kept(model: Any) -> Iterator[None]:
    """Put back, to the bit, every variable of ``model`` and every source of random numbers.

    The variables of several replicas, which may differ, are put back one by one. What is kept is a
    tensor that shares its memory with the variable until somebody assigns to that.
    """
    saved = [
        (each, each.read_value()) for variable in _variables(model) for each in parts(variable)
    ]
    try:
        with randomness_kept():
            yield
    finally:
        for variable, value in saved:
            if not same(variable.numpy(), value.numpy()):
                variable.assign(value)


def _variables(model):
    """Weights, populations, seeds, metrics and optimizer, each once."""
    found = list(model.variables)
    found += getattr(model, "metrics_variables", [])
    optimizer = getattr(model, "optimizer", None)
    variables = getattr(optimizer, "variables", [])
    found += variables() if callable(variables) else list(variables)
    numbers = {id(each): each for each in found}
    return [each for each in numbers.values() if "string" not in str(each.dtype)]


def parts(variable: Any) -> list:
    """The variables of the replicas, which may differ, or the one there is."""
    stored = variable if isinstance(variable, tf.Variable) else variable.value
    return list(getattr(stored, "values", [stored]))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal, NaN to NaN."""
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


class Start:
    """The variables of ``model`` that a pass may move, with the values that they start from."""

    def __init__(self, model: Any):
        self._values = [
            (variable, part, part.read_value())
            for variable in model.non_trainable_variables
            for part in parts(variable)
        ]

    def restore(self) -> None:
        """Put back what passes have moved."""
        for _, part, value in self._values:
            part.assign(value)

    def moved(self) -> list[str]:
        """The variables that have moved by now; the states of random numbers are none."""
        return [
            getattr(variable, "path", variable.name)
            for variable, part, value in self._values
            if "seed" not in variable.name and not same(part.numpy(), value.numpy())
        ]
