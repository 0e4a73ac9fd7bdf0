"""The layers of a Keras model that have a counterpart in other frameworks."""

import itertools
import math
import re
from typing import Any, NamedTuple

import numpy as np

from bnref import norms
from bnref.conventions._layouts import from_keras
from bnref.norms._finding import sources, walk

# Class names of Keras and tf_keras, and what is here called their kind.
KINDS = {
    r"Dense": "dense",
    r"Conv\dD": "conv",
    r"DepthwiseConv\dD": "depthwise",
    r"Conv\dDTranspose": "transposed",
}
LIBRARIES = ("bnref", "keras", "tf_keras")


class Target(NamedTuple):
    """A layer of a Keras model: a norm, a dense layer or a convolution."""

    path: str
    kind: str
    layer: Any
    norm: Any = None  # its view, where it is one

    @property
    def family(self) -> str:
        """Whose modules it may be given: those called norm, dense or conv."""
        return self.kind if self.kind in ("norm", "dense") else "conv"

    @property
    def kernel(self) -> Any:
        """The kernel's variable."""
        named = hasattr(self.layer, "depthwise_kernel")  # in tf_keras
        return self.layer.depthwise_kernel if named else self.layer.kernel

    @property
    def flattened(self) -> tuple[int, ...]:
        """(*positions, channels) of what was flattened before the layer; empty if nothing was."""
        if self.family == "conv":
            return ()
        shape = _flattened(self.layer)
        rows = self.kernel.shape[0] if self.norm is None else self.norm.channels
        return shape if math.prod(shape) == rows else ()  # another where it was reshaped since

    def shape(self, framework: str) -> tuple[int, ...]:
        """The shape of its kernel, or of its mean, in another framework."""
        if self.norm is not None:
            return tuple(self.norm.mean.shape)
        return from_keras(np.zeros(self.kernel.shape, "i1"), self.kind, framework).shape


def targets(model: Any, layers: str) -> list[Target]:
    """The layers of a built model in their order.

    Parameters
    ----------
    model : keras.Model
    layers : {"all", "norms"}

    Raises
    ------
    ValueError
        `model` is none, is not built, or has weights that have no counterpart.
    """
    if layers not in ("all", "norms"):
        raise ValueError(f"layers must be 'all' or 'norms'; received {layers!r}")
    found = [
        Target(each.path, "norm", each.layer, each)
        for each in norms.find(model)
        if each.library in LIBRARIES
    ]
    for each in found:
        if not each.norm.built:
            raise ValueError(f"model must be built; {each.path!r} has no variables yet")
        if not each.norm.fixed:
            raise ValueError(
                f"norm {each.path!r} has no counterpart: what {type(each.layer).__name__} does at "
                "inference is not the same for every example"
            )
    if layers == "norms":
        return found
    of_norms = {id(each.layer): each for each in found}
    everything = []
    for path, layer in walk(model):
        kind = _kind(layer)
        if id(layer) in of_norms:
            everything.append(of_norms[id(layer)])
        elif kind is not None:
            if not layer.built:
                raise ValueError(f"model must be built; {path!r} has no variables yet")
            everything.append(Target(path, kind, layer))
    _check_that_nothing_is_left_out(model, everything)
    return everything


def side_by_side(found: list[Target]) -> list[tuple[Target, Target]]:
    """Layers of one family and shape whose order says nothing: the first does not feed the second.

    Such as the shortcut of a residual block and the branch beside it. Known where the model is a
    graph of layers; in a subclassed model the order is that in which it made them.
    """
    alike: dict[tuple, list[Target]] = {}
    for each in found:
        if sources(each.layer):
            model = each.path.rpartition("/")[0]
            alike.setdefault((model, each.shape("pytorch")), []).append(each)
    return [
        (one, other)
        for group in alike.values()
        for one, other in itertools.pairwise(group)
        if not _feeds(one.layer, other.layer)
    ]


def _kind(layer):
    for each in type(layer).__mro__:
        if each.__module__.partition(".")[0] in ("keras", "tf_keras"):
            for pattern, kind in KINDS.items():
                if re.fullmatch(pattern, each.__name__):
                    return kind
    return None


def _check_that_nothing_is_left_out(model, found):
    known = {id(weight) for each in found for weight in each.layer.weights}
    unknown = [
        layer.name
        for _, layer in walk(model)
        if layer is not model
        and not list(layer._flatten_layers(include_self=False, recursive=False))
        and any(id(weight) not in known for weight in layer.weights)
    ]
    left = [weight.name for weight in model.weights if id(weight) not in known]
    if left:
        raise ValueError(
            "model must have no weights but those of norms, dense layers and convolutions; found "
            f"{', '.join(unknown or left)}: layers='norms' passes over all but the norms"
        )


def _feeds(one, other):
    """Whether the other layer's input comes from this one, directly or not."""
    seen: set[int] = set()
    waiting = [other]
    while waiting:
        layer = waiting.pop()
        if layer is one:
            return True
        if id(layer) not in seen:
            seen.add(id(layer))
            waiting.extend(sources(layer))
    return False


def _flattened(layer):
    """The shape that a Flatten before the layer is given, past what keeps each number's place."""
    while len(before := sources(layer)) == 1:
        (layer,) = before
        if type(layer).__name__ == "Flatten" and layer.data_format == "channels_last":
            shape = tuple(layer.input.shape[1:])
            return () if None in shape else shape
        if layer.weights and getattr(layer, "moving_mean", None) is None:
            break
    return ()
