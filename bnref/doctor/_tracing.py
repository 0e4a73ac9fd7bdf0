"""Which layer's outputs reach which layer, as one pass shows it: in a subclass too."""

import contextlib
from functools import partial
from typing import Any

from bnref.norms._calling import called


def traced(model: Any, layers: list[tuple[str, Any]], arguments: tuple) -> dict[int, list[Any]]:
    """Which layers' outputs each layer was given, by the layer's id, in one pass at inference.

    Layers that hold others are left out: their outputs are those of a layer within.
    """
    makers: dict[int, Any] = {}
    given: dict[int, list[Any]] = {}
    held = []  # an id is that of one tensor as long as the tensor is there

    def call(layer, original, arguments):
        maker = makers.get(id(arguments.args[0])) if arguments.args else None
        if maker is not None:
            given.setdefault(id(layer), []).append(maker)
        y = original(*arguments.args, **arguments.kwargs)
        held.append(y)
        makers[id(y)] = layer
        return y

    with contextlib.ExitStack() as stack:
        for _, layer in layers:
            if not list(layer._flatten_layers(include_self=False, recursive=False)):
                stack.enter_context(called(layer, partial(call, layer)))
        model(*arguments, training=False)
    return given


def only_one(layers: list[Any]) -> Any:
    """The layer that all of these are; None where they are several, or none."""
    found = {id(each): each for each in layers}
    return next(iter(found.values())) if len(found) == 1 else None
