"""Folding the norms of a whole model."""

from collections import Counter
from typing import Any, NamedTuple

import keras

from bnref import norms, population
from bnref.folding._layer import FOLDABLE, check, fold
from bnref.norms._finding import walk
from bnref.norms._rebuilding import calls_in_graphs, graphs, is_graph, nodes, rebuilt, sources


class Folded(NamedTuple):
    """A model without the norms that could be folded, their paths, and why the others were kept."""

    model: keras.Model
    folded: list[str]
    kept: dict[str, str]


def fold_model(model: keras.Model) -> Folded:
    """A copy of a model in which each norm is folded into the layer before it, where that is exact.

    A norm is folded if it is called once, on the output of one layer that `fold` takes, and if
    that layer is called once as well and its output goes nowhere else. Every other norm is kept as
    it is, and listed with the reason.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential, and built. The models in it may be so too; norms in subclassed
        models, in wrappers such as ``TimeDistributed`` and in layers of your own are kept.

    Returns
    -------
    model : keras.Model
        For inference. It shares the layers that were not folded with `model`, which stays as it
        is.
    folded : list of str
        The paths of the norms that are gone, as `bnref.norms.find` names them.
    kept : dict of str
        The reason for each norm that is still there, by its path. All three are fields of a named
        tuple.

    Raises
    ------
    ValueError
        `model` is neither functional nor Sequential, or not built; there is nothing to fold; the
        variance of a norm is negative or not finite.

    Examples
    --------
    >>> import keras
    >>> layers = [keras.layers.Dense(3), keras.layers.BatchNormalization(name="folds")]
    >>> layers += [keras.layers.ReLU(name="relu"), keras.layers.BatchNormalization(name="stays")]
    >>> result = fold_model(keras.Sequential([keras.Input((4,)), *layers]))
    >>> result.folded, result.kept
    (['folds'], {'stays': 'relu is no layer that a norm is folded into (ReLU)'})
    """
    if not is_graph(model):
        raise ValueError(
            "model must be a functional or Sequential keras.Model, and built; a subclass with its "
            f"own call shows no graph: fold its layers by bnref.folding.fold; received {model!r}"
        )
    population.check(model)
    calls = _Calls(model)
    pairs, folded, kept = {}, [], {}
    for norm in norms.find(model):
        reason = calls.reason_to_keep(norm.layer)
        if reason:
            kept[norm.path] = reason
        else:
            folded.append(norm.path)
            pairs[id(calls.source(norm.layer))] = norm.layer
    if not folded:
        message = "model must have a norm right after a layer it can be folded into"
        raise ValueError("\n".join([message, *(f"{path}: {why}" for path, why in kept.items())]))
    return Folded(_without(model, pairs), folded, kept)


class _Calls:
    """Who calls whom in a model and in the graphs within it."""

    def __init__(self, model):
        self.of_layer = calls_in_graphs(model)
        self.uses = Counter()  # how often a layer's output is taken, or given to the user
        for graph in graphs(model):
            for node in nodes(graph):
                self.uses.update(map(id, sources(node)))
            outputs = keras.tree.flatten(graph.outputs)
            self.uses.update(id(each._keras_history.operation) for each in outputs)

    def source(self, norm):
        """The layer whose output the norm takes."""
        (node,) = self.of_layer[id(norm)]
        return sources(node)[0]

    def reason_to_keep(self, norm) -> str | None:
        """Why the norm cannot be folded; None if it can."""
        calls = self.of_layer.get(id(norm), [])
        if not calls:
            return "no graph shows its call: it is in a layer, or in a subclassed model"
        if len(calls) > 1:
            return f"it is called {len(calls)} times"
        if len(calls[0].input_tensors) > 1:
            return "it is called with a mask"
        # By its name: Keras takes nothing but tensors by position.
        if calls[0].arguments.kwargs.get("training") is True:
            return "it is called with training=True, and may normalize by the batch at inference"
        layer = self.source(norm)
        if type(layer) not in FOLDABLE:
            return f"{layer.name} is no layer that a norm is folded into ({type(layer).__name__})"
        if len(self.of_layer[id(layer)]) > 1:
            return f"{layer.name} before it is called {len(self.of_layer[id(layer)])} times"
        if self.uses[id(layer)] > 1:
            return f"the output of {layer.name} before it is used elsewhere too"
        try:
            check(layer, norm)
        except ValueError as error:
            return str(error)
        return None


def _without(model: keras.Model, pairs: dict[int, Any]) -> keras.Model:
    """The model with each layer of a pair, named by its id, folded with its norm."""
    gone = {id(norm) for norm in pairs.values()}
    made: dict[int, Any] = {}

    def replaced(layer):
        if id(layer) in gone:
            return None
        if id(layer) not in made:
            made[id(layer)] = other(layer)
        return made[id(layer)]

    def other(layer):
        if id(layer) in pairs:
            return fold(layer, pairs[id(layer)])
        if is_graph(layer) and any(id(each) in gone for _, each in walk(layer)):
            return rebuilt(layer, replaced)
        return layer

    return other(model)
