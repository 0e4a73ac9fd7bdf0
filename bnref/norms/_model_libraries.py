"""Which library a model is of, and how its ``fit`` calls it."""

import sys
from types import ModuleType
from typing import Any


def library_of(model: Any) -> ModuleType:
    """The library that a model is of, keras or tf_keras: that of the class it is derived from."""
    for each in type(model).__mro__:
        package = each.__module__.partition(".")[0]
        if package in ("keras", "tf_keras"):
            return sys.modules[package]
    raise ValueError(f"model must be a Keras model; received {type(model).__name__}")


def fit_says_training(model: Any) -> bool:
    """Whether ``fit`` calls the model with ``training=True``.

    Keras 3 does so where the model's ``call`` names ``training``; elsewhere it calls ``model(x)``,
    and every layer within takes that for inference. tf_keras says it always; and a ``train_step``
    that was written for the model is taken to say it, as ``model(x, training=True)``.
    """
    step = getattr(model, "train_step", None)
    if getattr(step, "__func__", None) is not library_of(model).Model.train_step:
        return True
    return bool(getattr(model, "_call_has_training_arg", True))
