"""What is asked of an implementation, what comes back, and what is made of it."""

import importlib.util
from importlib import metadata
from typing import NamedTuple

import numpy as np
import tensorflow as tf

__all__ = ["ABSENT", "AGREES", "DIFFERS", "VERDICTS", "WRONG", "Cell", "Implementation"]
__all__ += ["Outcome", "REFUSALS", "Step", "said"]

AGREES, DIFFERS, WRONG, ABSENT = VERDICTS = (
    "as the formula",
    "differs by design",
    "wrong",
    "not offered",
)


# How the libraries say that they will not; anything else is a fault of the program.
REFUSALS = (TypeError, ValueError, RuntimeError, tf.errors.OpError)


class Cell(NamedTuple):
    """A cell of the table: one of `VERDICTS`, a few words, and a sentence or two."""

    verdict: str
    value: str
    details: str


class Step(NamedTuple):
    """One step of training, and one of inference after it; γ is 1 and β is 0.

    Attributes
    ----------
    parts : list of array, shape (N, ..., C)
        A batch for each replica; one batch alone is trained on without replicas.
    options : dict
        Arguments of the implementation, by its own names.
    new, epsilon : float, optional
        The weight of the new batch in what is remembered, and ε; else the defaults.
    start : pair of array, shape (C,), optional
        Population mean and variance before the step; else what the implementation starts from.
    dy : list of array, optional
        The gradients of the loss by y, one for each part.
    masks : list of array of bool, shape (N, ...), optional
        True for what is there.
    switch : str, optional
        One of the implementation's `switches`, used before the step.
    then : array, optional
        A batch for inference after the step, the same on every replica.
    half : str, optional
        ``"float16"`` or ``"bfloat16"``, the type of the parts: used as the implementation means it
        to be, see its `mixed`.
    weights, direction : list of array, optional
        One of each for each part: the gradient of Σ weights · tanh(y) by x is differentiated along
        the direction, all parts together.
    """

    parts: list
    options: dict = {}
    new: float | None = None
    epsilon: float | None = None
    start: tuple | None = None
    dy: list | None = None
    masks: list | None = None
    switch: str | None = None
    then: object = None
    half: str | None = None
    weights: list | None = None
    direction: list | None = None


class Outcome(NamedTuple):
    """Arrays that a step leaves; `y`, `dx`, `evaluated` and `along` have one for each replica.

    `mean` and `variance`, shape (C,), are what is saved and read back, or (R, C) where the
    implementation keeps a state for each replica, and saves none by itself. `along` is the
    derivative of the gradient along the direction, or None.
    """

    y: list
    dx: list | None
    mean: object
    variance: object
    evaluated: list | None
    along: list | None = None


class Implementation:
    """One row of the table; a subclass says how a `Step` is run."""

    modules: tuple[str, ...] = ()  # what must be installed besides bnref's own dependencies
    distributions: tuple[str, ...] = ()  # whose versions are recorded
    momentum, epsilon = "momentum", "epsilon"  # the names of the arguments
    weighs_new = False  # what the argument weighs: for `new`; the probe of momentum measures it
    synchronized = False  # asked on two replicas then, half of the batch on each
    saves = True
    double: dict = {}  # options for parts of float64
    # Options that mend a variance that cancels; the documentation says so of them.
    cures: dict = {}
    # By name: whether it is said to the layer, "layer", or in a "call".
    switches: dict[str, str] = {}
    note = ""  # put before every value

    def missing(self) -> str | None:
        """The first module that is needed and not installed, or None."""
        return next((m for m in self.modules if importlib.util.find_spec(m) is None), None)

    def versions(self) -> str:
        """The versions it is measured on, such as ``"flax 0.12.8, jax 0.10.2"``."""
        return ", ".join(f"{name} {metadata.version(name)}" for name in self.distributions)

    def mixed(self, kind: str) -> dict:
        """The options for inputs of 16 bits, ``"float16"`` or ``"bfloat16"``."""
        return {}

    def options(self, step: Step) -> dict:
        """The arguments that a step asks for."""
        named = {**(self.mixed(step.half) if step.half else {}), **step.options}
        if step.parts[0].dtype == np.float64:
            named = {**self.double, **named}
        if step.new is not None:
            named[self.momentum] = step.new if self.weighs_new else 1 - step.new
        if step.epsilon is not None:
            named[self.epsilon] = step.epsilon
        return named

    def run(self, step: Step) -> Outcome:
        """Return the `Outcome` of a `Step`."""
        raise NotImplementedError


def said(error: Exception) -> str:
    """An error in one line; of Keras's, which are framed by the call's arguments, the message."""
    text = str(error).partition("\x1b[1m")[2].partition("\x1b[0m")[0] or str(error)
    return f"{type(error).__name__}: {' '.join(text.split())[:200]}"
