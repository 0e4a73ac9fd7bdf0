"""Every batch norm of a model, with its path and with what its input comes from."""

from collections.abc import Iterator
from typing import Any

from bnref.norms._libraries import of
from bnref.norms._norm import Norm
from bnref.norms._rebuilding import calls_in_graphs


def find(model: Any) -> list[Norm]:
    """Every batch norm of a model, of bnref, Keras or tf_keras, in the order of its layers.

    In functional, Sequential, nested and subclassed models, and in layers inside layers, such as
    ``TimeDistributed``. A norm that is used in several places stands there once.

    Parameters
    ----------
    model : keras.Model, tf_keras.Model or a layer

    Returns
    -------
    list of Norm
        Empty if there is none.

    Raises
    ------
    ValueError
        `model` is neither a model nor a layer.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn")])
    >>> [(norm.path, norm.library, norm.epsilon) for norm in find(model)]
    [('bn', 'keras', 0.001)]
    """
    if not hasattr(model, "_flatten_layers"):
        raise ValueError(f"model must be a Keras model or layer; received {type(model).__name__}")
    calls = calls_in_graphs(model)
    found = []
    for path, layer in walk(model):
        view = of(layer)
        if view is not None:
            found.append(view(layer, path, sources(layer, calls.get(id(layer)))))
    return found


def walk(model: Any) -> Iterator[tuple[str, Any]]:
    """Each layer of a model once, the model itself first, with its path."""
    seen: set[int] = set()

    def below(layer, path):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path or layer.name, layer
        # Keras offers no public walk that sees the layers inside of layers.
        for each in layer._flatten_layers(include_self=False, recursive=False):
            yield from below(each, f"{path}/{each.name}" if path else each.name)

    yield from below(model, "")


def sources(layer: Any, calls: list | None = None) -> tuple:
    """The layers that a layer's inputs come from, in all of its calls, each once.

    ``calls`` are those of one model, which may share the layer with another; all unless given.
    """
    found = []
    nodes = getattr(layer, "_inbound_nodes", []) if calls is None else calls
    for node in nodes:
        if hasattr(node, "inbound_layers"):  # tf_keras: a layer, or a list where there are several
            inbound = node.inbound_layers
            found += inbound if isinstance(inbound, list) else [inbound]
        else:  # Keras 3
            found += [tensor._keras_history.operation for tensor in node.input_tensors]
    return tuple(dict.fromkeys(found))
