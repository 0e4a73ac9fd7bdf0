"""Which module of a state belongs to which layer of a model."""

from collections.abc import Mapping

from bnref.conventions._modules import Module
from bnref.conventions._targets import Target, side_by_side

FAMILIES = ("norm", "dense", "conv")


def by_names(found: list[Target], names: Mapping) -> dict[str, Target]:
    """The layers that ``names`` gives to modules.

    Raises
    ------
    ValueError
        A path is none of the model's, or is given twice.
    """
    paths = {each.path: each for each in found}
    given = [path for path in names.values() if path is not None]
    for path in given:
        if path not in paths:
            raise ValueError(f"names: {path!r} is no layer to port; there are {', '.join(paths)}")
        if given.count(path) > 1:
            raise ValueError(f"names: {path!r} is given to {given.count(path)} modules")
    return {name: paths[path] for name, path in names.items() if path is not None}


def matched(
    found: list[Target], modules: list[Module], names: Mapping, source: str, layers: str
) -> list[tuple[Module, Target]]:
    """Each module with its layer, by name or by the order of its family.

    Raises
    ------
    ValueError
        They do not fit, see `port_model`.
    """
    named = by_names(found, names)
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
        if module.family != target.family or module.shape != target.shape(source):
            raise ValueError(_listed("names do not fit", [module], [target], source))
    paths = {each.path for each in named.values()}
    left = [each for each in found if each.path not in paths]
    for family in FAMILIES:
        pairs += _in_order(
            [each for each in rest if each.family == family],
            [each for each in left if each.family == family],
            source,
        )
    return pairs


def _in_order(modules, found, source):
    shapes = [each.shape for each in modules], [each.shape(source) for each in found]
    if shapes[0] != shapes[1]:
        raise ValueError(_listed("state and model must fit in order", modules, found, source))
    if beside := side_by_side(found):
        where = "; ".join(f"{one.path!r} and {other.path!r}" for one, other in beside)
        because = f"order cannot tell {where}, which stand side by side: give names"
        raise ValueError(_listed(because, modules, found, source))
    return list(zip(modules, found, strict=True))


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
