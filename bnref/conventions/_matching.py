"""Which module of a state belongs to which layer of a model."""

import itertools
from collections.abc import Mapping

from bnref.conventions._modules import Module, State
from bnref.conventions._targets import Target, side_by_side

FAMILIES = ("norm", "dense", "conv")


def by_names(found: list[Target], names: Mapping) -> dict[str, Target]:
    """The layers that ``names`` gives to modules.

    Raises
    ------
    ValueError
        A path is none of the model's, or is given twice.
    """
    if not isinstance(names, Mapping):
        raise ValueError(
            f"names must map modules to layers' paths; received {type(names).__name__}"
        )
    paths = {each.path: each for each in found}
    given = [path for path in names.values() if path is not None]
    for path in given:
        if path not in paths:
            raise ValueError(f"names: {path!r} is no layer to port; there are {', '.join(paths)}")
        if given.count(path) > 1:
            raise ValueError(f"names: {path!r} is given to {given.count(path)} modules")
    return {name: paths[path] for name, path in names.items() if path is not None}


def matched(
    found: list[Target], state: State, names: Mapping, layers: str
) -> list[tuple[Module, Target]]:
    """Each module with its layer, by name or by the order of its family.

    Raises
    ------
    ValueError
        They do not fit, see `port_model`.
    """
    named = by_names(found, names)
    modules = state.modules
    known = {each.name: each for each in modules}
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"names: state has no module {missing[0]!r}; it has {', '.join(known)}")
    if layers == "norms":
        modules = [each for each in modules if each.family == "norm"]
    rest = [each for each in modules if each.name not in names]
    if unknown := [each for each in rest if each.family == "unknown"]:
        raise ValueError(
            f"state must have no modules but norms, dense layers and convolutions; "
            f"{unknown[0].name!r} has {', '.join(unknown[0].weights)}: leave it out by "
            f"names={{{unknown[0].name!r}: None}}, or all but the norms by layers='norms'"
        )
    pairs = [(known[name], target) for name, target in named.items()]
    for module, target in pairs:
        if module.family != target.family or module.shape != target.shape(state.source):
            raise ValueError(_listed("names do not fit", [module], [target], state.source))
    paths = {each.path for each in named.values()}
    left = [each for each in found if each.path not in paths]
    for family in FAMILIES:
        pairs += _in_order(
            [each for each in rest if each.family == family],
            [each for each in left if each.family == family],
            state,
        )
    if not pairs:
        raise ValueError("model and state must have something to port; found nothing in either")
    order = {each.path: index for index, each in enumerate(found)}
    return sorted(pairs, key=lambda pair: order[pair[1].path])


def _in_order(modules, found, state):
    """Modules and layers of one family in pairs, if their order and shapes allow no other."""
    source, because = state.source, ""
    if [each.shape for each in modules] != [each.shape(source) for each in found]:
        because = "state and model must fit in order"
    elif beside := side_by_side(found):
        because = (
            f"order cannot tell {_pairs(beside, 'path')}, which stand side by side: give names"
        )
    elif mixed := [
        (one, other)
        for one, other in itertools.combinations(modules, 2)
        if one.shape == other.shape and state.unordered(one, other)
    ]:
        because = f"order cannot tell {_pairs(mixed, 'name')}, which JAX sorted as text: give names"
    if because:
        raise ValueError(_listed(because, modules, found, source))
    return list(zip(modules, found, strict=True))


def _pairs(pairs, attribute):
    """The first two pairs in words."""
    texts = [
        f"{getattr(one, attribute)!r} from {getattr(other, attribute)!r}" for one, other in pairs
    ]
    return "; ".join([*texts[:2], *["and others"] * (len(texts) > 2)])


def _listed(because, modules, found, source):
    """The error's text: both sides in two columns, with a mark where shapes differ."""
    left = [f"{each.name} {each.shape}" for each in modules]
    right = [f"{each.path} {each.shape(source)}" for each in found]
    width, lines = max(map(len, [*left, "state"])), []
    for index in range(max(len(left), len(right))):
        one = left[index] if index < len(left) else "-"
        other = right[index] if index < len(right) else "-"
        fits = index < min(len(left), len(right)) and modules[index].shape == found[index].shape(
            source
        )
        lines.append(f"{' ' if fits else '!'} {one:{width}}  {other}")
    return "\n".join([f"{because}.", f"  {'state':{width}}  model", *lines])
