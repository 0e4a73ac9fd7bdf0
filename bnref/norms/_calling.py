"""A layer's call, replaced for a while: how a pass through any model is looked into."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def called(layer: Any, call: Callable) -> Iterator[None]:
    """Within, a call of ``layer`` is ``call(original, arguments)``.

    The method is replaced on the instance, so that it works wherever the layer stands: in a graph
    of layers, in a subclass, in another layer. ``arguments`` are an ``inspect.BoundArguments``: by
    name, with their defaults, for ``original(*arguments.args, **arguments.kwargs)``. A function
    that was traced before does what it was traced to do.
    """
    original, own = layer.call, vars(layer).get("call")
    signature = inspect.signature(original)

    def replaced(*arguments, **named):
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        return call(original, bound)

    layer.call = replaced
    try:
        yield
    finally:
        del layer.call
        if own is not None:
            layer.call = own
