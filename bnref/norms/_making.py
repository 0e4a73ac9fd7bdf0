"""One norm of another kind, with the variables of the norm that it takes the place of."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from bnref.norms._norm import Norm

# What all kinds of batch norm are made with; what only one kind knows is given as an option.
SHARED = (
    "axis", "momentum", "epsilon", "center", "scale", "beta_initializer", "gamma_initializer",
    "moving_mean_initializer", "moving_variance_initializer", "beta_regularizer",
    "gamma_regularizer", "beta_constraint", "gamma_constraint",
)  # fmt: skip
VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")


def in_place_of(norm: Norm, to: type | Callable, options: dict) -> Any:
    """A built layer of the kind ``to``, with the arguments and the variables of ``norm``.

    Raises
    ------
    ValueError
        The norm is not built, or of a library that is not converted; the kind refuses its
        arguments or its shape; a variable has another shape there.
    """
    if norm.library not in ("bnref", "keras"):
        raise ValueError(f"norms of {norm.library} are not converted")
    if not norm.built:
        raise ValueError("it is not built: call the model once")
    layer = _of_class(norm, to, options) if isinstance(to, type) else to(norm)
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(f"to must return a layer; it returned {layer!r}")
    if not layer.built:
        layer.build(_input_shape(norm.layer))
    layer.trainable = norm.trainable
    for name in VARIABLES:
        old, new = (getattr(each, name, None) for each in (norm.layer, layer))
        if old is None or new is None:
            continue
        if tuple(old.shape) != tuple(new.shape):
            raise ValueError(f"its {name} has shape {tuple(old.shape)}, and here {new.shape}")
        new.assign(old)
    return layer


def _of_class(norm, kind, options):
    config, known = norm.layer.get_config(), _arguments(kind)
    shared = {name: config[name] for name in SHARED if name in config and name in known}
    base = {"name": norm.layer.name, "dtype": norm.layer.dtype_policy}
    return kind(**{**base, **shared, **options})


def _arguments(kind):
    """The names that the constructors of a class and of those that it extends take."""
    own = [each for each in kind.__mro__ if issubclass(each, keras.layers.Layer)]
    constructors = [each.__init__ for each in own if each is not keras.layers.Layer]
    return {name for each in constructors for name in inspect.signature(each).parameters}


def _input_shape(layer):
    """The shape that the layer is called with, where a graph knows it, or else was built for."""
    for node in layer._inbound_nodes:
        return node.input_tensors[0].shape
    return layer.get_build_config()["input_shape"]
