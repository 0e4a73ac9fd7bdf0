"""The model as whoever loads it gets it: saved to a file for a moment, and loaded from there."""

import contextlib
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bnref.norms import Norm, find
from bnref.norms._model_libraries import library_of

# What a norm says of itself, and how a sentence calls it.
SAVED = {
    "epsilon": "ε",
    "momentum": "the momentum",
    "axis": "the axis",
    "gamma": "γ",
    "beta": "β",
    "mean": "the population's mean",
    "variance": "the population's variance",
}

# A folder with the contents of a .keras file, which itself is written and read in memory and would
# take that of a second model more. tf_keras knows the file alone.
FORMATS: dict[str, tuple[str, dict]] = {
    "keras": ("model", {"zipped": False}),
    "tf_keras": ("model.keras", {}),
}


class ReloadError(Exception):
    """The model cannot be saved, loaded, or called after that; the message says why."""


class Reloaded(NamedTuple):
    """What came back from the file.

    Attributes
    ----------
    norms : list of dict
        The `values_of` each norm of the loaded model, in the order in which `bnref.norms.find` has
        them in the first. Values, not norms: the loaded model is not kept.
    apart : float
        How far its outputs are from those of the first, see `distance`.
    itself : float
        How far the outputs of the first are from its own, when it is asked once more.
    """

    norms: list[dict[str, np.ndarray]]
    apart: float
    itself: float


def reloaded(model: Any, arguments: tuple) -> Reloaded:
    """Save a model, load it, and ask both about the same examples, at inference.

    The file is gone afterwards; the variables of ``model`` are for the caller to put back.

    Raises
    ------
    ReloadError
        Some of it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = library_of(model)
        name, options = FORMATS[library.__name__]
        path = Path(folder, name)
        with _without_optimizer(model):
            _attempt("saved", lambda: model.save(path, **options))
        loaded = _attempt("loaded", lambda: library.saving.load_model(path, compile=False))
    theirs = _attempt("called after loading", lambda: loaded(*arguments, training=False))
    # Twice, and nothing is put back in between: random numbers and averages go on.
    ours, again = (model(*arguments, training=False) for _ in range(2))
    values = [values_of(norm) for norm in find(loaded)]
    return Reloaded(values, distance(ours, theirs), distance(ours, again))


def values_of(norm: Norm) -> dict[str, np.ndarray]:
    """Of each name in `SAVED`, the numbers of a norm along one axis; NaN for what is not there."""
    return {name: _numbers(getattr(norm, name)) for name in SAVED}


def _numbers(value):
    return np.ravel(np.asarray(np.nan if value is None else value, "float64"))


def distance(outputs: Any, others: Any) -> float:
    """The largest difference of two models' outputs, in the standard deviation of the first's.

    At least a thousandth of the largest output is divided by, so that rounding is never much where
    all outputs are alike. Infinite where one is no number and the other is, or the shapes differ.
    """
    found = 0.0
    for one, other in zip(tf.nest.flatten(outputs), tf.nest.flatten(others), strict=True):
        a, b = np.asarray(one, "float64"), np.asarray(other, "float64")
        if a.shape != b.shape or (np.isfinite(a) != np.isfinite(b)).any():
            return np.inf
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        if a.size:
            scale = np.std(a) + 1e-3 * np.abs(a).max() + 1e-12
            found = max(found, float(np.abs(a - b).max() / scale))
    return found


@contextlib.contextmanager
def _without_optimizer(model: Any) -> Iterator[None]:
    """Within, a file of the model holds no optimizer: of Adam's it is two thirds, read by nobody.

    The attribute is replaced where it is kept, past Keras, which would take note of the change.
    """
    optimizer = vars(model).get("optimizer")
    if optimizer is not None:
        vars(model)["optimizer"] = None
    try:
        yield
    finally:
        if optimizer is not None:
            vars(model)["optimizer"] = optimizer


def _attempt(what: str, step: Callable) -> Any:
    """What a step returns; one that fails is told in a sentence."""
    try:
        return step()
    except Exception as error:  # whatever a layer of the reader's own raises
        raise ReloadError(f"the model cannot be {what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first sentence of what went wrong, which Keras tells last, behind all it was part of."""
    said = str(error).rpartition("Exception encountered: ")[2].strip()
    first = said.partition("\n")[0].partition(". ")[0].rstrip(".")
    return textwrap.shorten(first, 200) or type(error).__name__
