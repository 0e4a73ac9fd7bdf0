"""The weights of a whole model as PyTorch and Flax keep them, module by module."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bnref.conventions._frameworks import CONVENTIONS

# Under which names each keeps what is here kernel and bias.
KERNELS = {"pytorch": ("weight", "bias"), "flax": ("kernel", "bias")}
BETWEEN = {"pytorch": ".", "flax": "/"}
OURS = ("gamma", "beta", "mean", "variance")


class Module(NamedTuple):
    """A module: its name, its family, and its weights under the names of this package.

    The family is "norm" (gamma, beta, mean, variance), "dense" or "conv" (kernel, bias), or
    "unknown" (under the module's own names).
    """

    name: str
    family: str
    weights: dict[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        """That by which it is told from others: of its kernel, or of its mean."""
        first = {"norm": "mean"}.get(self.family, "kernel")
        return tuple(np.shape(self.weights[first]))


class State(NamedTuple):
    """The modules of a state in its order, and where that order is known to mean nothing.

    JAX sorts trees as text, by which BatchNorm_1 comes before Block_0, whichever was first. The
    paths of levels that are so sorted, with names of several stems, are in ``as_text``.
    """

    source: str
    modules: list[Module]
    as_text: set[str]

    def unordered(self, one: Module, other: Module) -> bool:
        """Whether the order of two modules is that of text alone."""
        left, right = (each.name.split("/") for each in (one, other))
        same = 0
        while left[same : same + 1] == right[same : same + 1]:
            same += 1
        inside = min(len(left), len(right)) == same  # one module holds the other
        if inside or "/".join(left[:same]) not in self.as_text:
            return False
        return _stem(left[same])[0] != _stem(right[same])[0]


def read(state: Mapping, source: str) -> State:
    """The modules of a state in its order.

    Raises
    ------
    ValueError
        `state` is no mapping; one of Flax is no tree of "params" and "batch_stats".
    """
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"state must be a mapping with weights; received {type(state).__name__}")
    as_text: set[str] = set()
    flat = _of_flax(state, as_text) if source == "flax" else dict(state)
    groups: dict[str, dict] = {}
    for key, value in flat.items():
        module, _, name = str(key).rpartition(BETWEEN[source])
        groups.setdefault(module, {})[name] = value
    modules = [_module(module, values, source) for module, values in groups.items()]
    return State(source, modules, as_text)


def write(modules: list[Module], target: str) -> dict:
    """A flat dict for PyTorch; for Flax a tree of "params" and "batch_stats"."""
    flat: dict[str, np.ndarray] = {}
    tree: dict[str, dict] = {"params": {}, "batch_stats": {}}
    for module in modules:
        norm = module.family == "norm"
        theirs = CONVENTIONS[target].names if norm else KERNELS[target]
        names = dict(zip(OURS if norm else ("kernel", "bias"), theirs, strict=True))
        path = [part for part in module.name.split(BETWEEN[target]) if part]
        for name, value in module.weights.items():
            flat[".".join([*path, names[name]])] = value
            room = tree["batch_stats" if name in OURS[2:] else "params"]
            for part in path:
                room = room.setdefault(part, {})
            room[names[name]] = value
    return tree if target == "flax" else flat


def _module(name, values, source):
    """A group of weights as a module of the family that its names and shapes tell."""
    norm, kernel = CONVENTIONS[source].names, KERNELS[source]
    values = {key: each for key, each in values.items() if key != "num_batches_tracked"}
    if set(norm[2:]) & set(values):
        ours = dict(zip(norm, OURS, strict=True))
        return _named(name, "norm", values, ours, needed=norm[2:])
    ndim = np.ndim(values.get(kernel[0], 0))
    if ndim < 2 or set(values) - set(kernel):
        return Module(name, "unknown", values)
    ours = dict(zip(kernel, ("kernel", "bias"), strict=True))
    return _named(name, "dense" if ndim == 2 else "conv", values, ours, needed=kernel[:1])


def _named(module, family, values, ours, needed):
    """The module, after a look that it has what it needs and no more than is known."""
    for name in needed:
        if values.get(name) is None:
            raise ValueError(f"state must have {name} of {module!r}; it is missing")
    if unknown := set(values) - set(ours):
        raise ValueError(
            f"{module!r} has the names {', '.join(ours)}; state has "
            f"{', '.join(sorted(unknown))} as well"
        )
    weights = {ours[name]: each for name, each in values.items() if each is not None}
    return Module(module, family, weights)


def _of_flax(tree, as_text):
    """All weights under their paths: norms in the order of their statistics, then the others."""
    if unknown := set(tree) - {"params", "batch_stats"}:
        raise ValueError(
            "state of Flax must have the collections params and batch_stats; received "
            f"{', '.join(sorted(map(str, unknown)))}"
        )
    flat: dict[str, object] = {}
    for collection in ("batch_stats", "params"):
        _flatten(tree.get(collection, {}), [], flat, as_text)
    return flat


def _flatten(tree, path, flat, as_text):
    names = list(tree)
    if names == sorted(names):
        names.sort(key=_stem)  # Conv_2 before Conv_10
        if len({_stem(name)[0] for name in names}) > 1:
            as_text.add("/".join(path))
    for name in names:
        if isinstance(tree[name], Mapping):
            _flatten(tree[name], [*path, name], flat, as_text)
        else:
            flat["/".join([*path, name])] = tree[name]


def _stem(name):
    """A module's name without its number, and the number."""
    match = re.fullmatch(r"(.*?)_?(\d+)", name)
    return (match[1], int(match[2])) if match else (name, -1)
