"""Layers in the place of others: in a copy of a graph, or within the object that holds them."""

from typing import Any

import keras

from bnref.norms._finding import walk
from bnref.norms._rebuilding import graphs, is_graph, rebuilt


class Replacing:
    """Puts other layers in the place of some.

    A graph is made again, of copies; what is no graph is changed itself.

    Parameters
    ----------
    pairs : list of (layer, layer)
        Each layer that goes, with the one that comes in its place.
    """

    def __init__(self, pairs: list[tuple[Any, Any]]):
        # By the id of what it is made from; what is made from is kept, so that no id comes twice.
        self._new = {id(old): new for old, new in pairs}
        self._going = set(self._new)
        self._kept_alive: list = [old for old, _ in pairs]
        self._seen: set[int] = set()

    def in_model(self, model: Any) -> Any:
        """A copy of a graph, or the same object if it is none, with the layers replaced."""
        if id(model) in self._new:
            return self._new[id(model)]
        if is_graph(model):
            return self._graph(model)
        self._within(model)
        return model

    def refused(self, model: Any) -> list[str]:
        """What of a model is in the way, each with its path; empty if nothing is."""
        found = []
        for path, each in walk(model):
            if not self._holds(each):
                continue
            if isinstance(each, keras.Sequential | keras.Function) and not is_graph(each):
                found.append(f"{path}: its call is not that of a functional or Sequential model")
            for layer in (layer for graph in graphs(each) for layer in graph.layers):
                if id(layer) not in self._going and not is_graph(layer) and _copy(layer) is None:
                    found.append(f"{layer.name}: it cannot be copied; its get_config must tell how")
        return list(dict.fromkeys(found))

    def _holds(self, layer):
        return any(id(each) in self._going for _, each in walk(layer))

    def _graph(self, model):
        copies = []

        def replaced(layer):
            if id(layer) not in self._new:
                self._new[id(layer)] = self._graph(layer) if is_graph(layer) else copy(layer)
            return self._new[id(layer)]

        def copy(layer):
            copies.append((layer, _copy(layer)))
            return copies[-1][1]

        made = rebuilt(model, replaced)
        for old, new in copies:
            if new is not old:
                self._complete(old, new)
        self._same_flags(model, made)
        self._kept_alive.append(model)
        return made

    def _complete(self, old, new):
        """Give a copy, which has its variables now, their values; and replace what it holds."""
        for variable, value in zip(new.variables, old.variables, strict=True):
            variable.assign(value)
        if not self._holds(old):
            return
        for (_, inner), (_, copied) in zip(walk(old), walk(new), strict=True):
            if id(inner) in self._going:
                self._new[id(copied)] = self._new[id(inner)]
                self._going.add(id(copied))
                self._kept_alive.append(copied)
        self._within(new)

    def _within(self, holder):
        """Replace the layers that something holds in its attributes."""
        if id(holder) in self._seen:
            return
        self._seen.add(id(holder))
        for layer in _held(holder):
            if id(layer) not in self._new and is_graph(layer) and self._holds(layer):
                self._new[id(layer)] = self._graph(layer)
            if id(layer) in self._new:
                _put(holder, layer, self._new[id(layer)])
            elif not is_graph(layer):
                self._within(layer)

    def _same_flags(self, old, new):
        """Freeze in the copy what is frozen; a model hands its flag down, so it comes first."""
        new.trainable = old.trainable
        if id(old) not in self._going:
            for inner, copied in zip(_held(old), _held(new), strict=True):
                self._same_flags(inner, copied)


def _held(layer):
    # Keras offers no public list of the layers in a layer.
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _copy(layer):
    """A layer of the same arguments; itself where it has no variables; None if that fails."""
    try:
        copy = type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError, ValueError):
        # Such as a lambda, which Keras does not read from a configuration without being told to.
        return None if layer.variables else layer
    # Where a class has no get_config of its own, Keras's leaves both out of the configuration.
    copy.name = layer.name
    return copy if copy.dtype_policy.name == layer.dtype_policy.name else None


def _put(holder, old, new):
    """Let ``holder`` hold ``new`` wherever it holds ``old``, in the same place of its layers."""
    holder._tracker.replace_tracked_value("layers", old, new)
    for name, value in list(vars(holder).items()):
        changed = _with(value, old, new)
        if changed is not value:
            setattr(holder, name, changed)


def _with(value, old, new):
    """The value with ``new`` for ``old``; a list and a dict are the same objects as before."""
    if value is old:
        return new
    if isinstance(value, list):
        for i, each in enumerate(value):
            value[i] = _with(each, old, new)
    elif isinstance(value, dict):
        for key, each in list(value.items()):
            value[key] = _with(each, old, new)
    elif isinstance(value, tuple):
        items = [_with(each, old, new) for each in value]
        if any(one is not other for one, other in zip(items, value, strict=True)):
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
