"""A model that is a graph of layers: what it calls, and how it is made again with other layers."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras


def is_graph(model: Any) -> bool:
    """Whether a model is Sequential or functional and built, so that its calls can be read.

    A subclass that overrides ``call`` is none: its graph is not what is called.
    """
    call = getattr(type(model), "call", None)
    name = f"{getattr(call, '__module__', '')}.{getattr(call, '__qualname__', '')}"
    graphs = (".Functional.call", ".Sequential.call")
    # A Sequential model has no inputs before it is built.
    return name.startswith("keras.") and name.endswith(graphs) and hasattr(model, "inputs")


def nodes(model: keras.Model) -> list:
    """The calls of a graph, each after those whose outputs it takes; its inputs are the first.

    Keras records a call as a node: ``operation``, ``arguments``, ``input_tensors``, ``outputs``.
    """
    ordered, done = [], set()
    waiting = [_node(tensor) for tensor in reversed(keras.tree.flatten(model.outputs))]
    while waiting:
        node = waiting[-1]
        before = [each for each in node.parent_nodes if each not in done]
        if before:
            waiting += reversed(before)
            continue
        waiting.pop()
        if node not in done:
            done.add(node)
            ordered.append(node)
    return ordered


def sources(node: Any) -> list:
    """The layers whose outputs a call takes, one for each tensor."""
    return [tensor._keras_history.operation for tensor in node.input_tensors]


def graphs(model: Any) -> Iterator[keras.Model]:
    """The model itself, if it is a graph, and the graphs within it, each once."""
    seen: set[int] = set()

    def below(each):
        if id(each) in seen or not is_graph(each):
            return
        seen.add(id(each))
        yield each
        for layer in each.layers:
            yield from below(layer)

    yield from below(model)


def calls_in_graphs(model: Any) -> dict[int, list]:
    """The calls of each layer in a model and in the graphs within it, by the layer's id."""
    calls: dict[int, list] = {}
    for graph in graphs(model):
        for node in nodes(graph):
            calls.setdefault(id(node.operation), []).append(node)
    return calls


def rebuilt(model: keras.Model, replaced: Callable[[Any], Any]) -> keras.Model:
    """A model like this one, with ``replaced(layer)`` in each layer's place.

    Where that is None the layer is left out, and its input is passed on. A subclass whose
    constructor takes something else than inputs and outputs becomes a plain ``keras.Model``.
    """
    if isinstance(model, keras.Sequential):
        first = _same_input(model.inputs[0]._keras_history.operation)
        layers = [replaced(layer) for layer in model.layers]
        kept = [layer for layer in layers if layer is not None]
        return keras.Sequential([first, *kept], name=model.name)
    tensors = {}
    for tensor in model.inputs:
        tensors[id(tensor)] = _same_input(tensor._keras_history.operation).output
    for node in nodes(model):
        if not node.is_input:
            outputs = _repeated(node, tensors, replaced)
            for old, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(old)] = new

    def counterpart(tensor):
        return tensors[id(tensor)]

    inputs = keras.tree.map_structure(counterpart, model.input)
    outputs = keras.tree.map_structure(counterpart, model.output)
    return _class_of(model)(inputs, outputs, name=model.name)


def _node(tensor):
    operation, number, _ = tensor._keras_history
    return operation._inbound_nodes[number]


def _same_input(layer):
    """Another input layer of the same shape, type and name."""
    return type(layer).from_config(layer.get_config())


def _repeated(node, tensors, replaced):
    """The outputs of the same call, of the layer that takes the place."""
    arguments, named = node.arguments.fill_in(tensors)
    layer = node.operation
    # A function of keras.ops has nothing of its own, and stands in both graphs.
    new = replaced(layer) if isinstance(layer, keras.layers.Layer) else layer
    if new is None:
        return tensors[id(node.input_tensors[0])]
    if type(new) is not type(layer):
        # Keras records these two for every layer that takes them; another kind may not.
        for name, taken in (("mask", "_call_has_mask_arg"), ("training", "_call_has_training_arg")):
            if not getattr(new, taken):
                named.pop(name, None)
    return new(*arguments, **named)


def _class_of(model):
    """The class that makes such a model of inputs and outputs."""
    _, *parameters = inspect.signature(type(model).__init__).parameters.values()
    first = [each.name for each in parameters[:2]]
    return type(model) if first in (["inputs", "outputs"], ["args", "kwargs"]) else keras.Model
