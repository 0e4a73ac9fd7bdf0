"""Random numbers: whoever draws after an examination draws what would have come without it."""

import contextlib
import importlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

# Where a library holds the generator that everybody shares, and what makes another one of it.
KERAS = "keras.src.backend.common.global_state"
TENSORFLOW = "tensorflow.python.ops.stateful_random_ops"
EAGER = "tensorflow.python.eager.context"


@contextlib.contextmanager
def randomness_kept() -> Iterator[None]:
    """Put back the state of every source of random numbers that is not the model's own.

    These are Python's, NumPy's, Keras's shared seeds, TensorFlow's shared generator, and the seeds
    that TensorFlow gives its operations one after the other once `tf.random.set_seed` was called.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with _kept_seeds_of_keras(), _kept_generator_of_tensorflow(), _other_seeds_of_operations():
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextlib.contextmanager
def _kept_seeds_of_keras():
    """What ``keras.random.normal(shape)`` draws from; made when it is first asked for."""
    state, name = _module(KERAS), "global_seed_generator"
    before = state.get_global_attribute(name) if state else None
    seed = None if before is None else np.array(before.state)
    try:
        yield
    finally:
        if state:
            state.set_global_attribute(name, before)
        if before is not None:
            before.state.assign(seed)


@contextlib.contextmanager
def _kept_generator_of_tensorflow():
    """What ``tf.random.get_global_generator()`` returns; made when it is first asked for."""
    module = _module(TENSORFLOW)
    before = getattr(module, "global_generator", None)
    state = None if before is None else before.state.read_value()
    try:
        yield
    finally:
        if module:
            module.global_generator = before
        if before is not None:
            before.state.assign(state)


@contextlib.contextmanager
def _other_seeds_of_operations():
    """Let operations within have seeds of their own.

    To put back the generator of the seeds is not enough: an operation of the same seed goes on
    where the one before it has stopped, since TensorFlow keeps its kernel.
    """
    module = _module(EAGER)
    context: Any = module.context() if module else None
    before = getattr(context, "_rng", None)
    if before is None:
        yield
        return
    context._rng = random.Random("bnref.doctor")
    try:
        yield
    finally:
        context._rng = before


def _module(name):
    """A module of the libraries' own, or None where a version has it not."""
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    return None
