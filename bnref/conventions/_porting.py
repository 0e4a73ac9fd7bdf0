"""All weights and arguments of a layer, from one framework's names and meanings to another's."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bnref._checks import finite_array, number
from bnref.conventions._converting import convert_momentum, convert_variance
from bnref.conventions._frameworks import convention


class Ported(NamedTuple):
    """A layer's weights and arguments, under the names of the framework that they are for."""

    weights: dict[str, np.ndarray]
    arguments: dict[str, float]


def port(
    weights: Mapping,
    *,
    source: str,
    target: str,
    momentum: float | None = None,
    epsilon: float | None = None,
    target_epsilon: float | None = None,
    count: int | None = None,
) -> Ported:
    """Turn the weights and arguments of one batch-norm layer into another framework's.

    Parameters
    ----------
    weights : dict of array, shape (C,)
        Under the source's names, see `Convention`; γ or β may be missing or None where the layer
        has none, and become 1 and 0. Caffe's come with ``scale_factor``; PyTorch's may come with
        ``num_batches_tracked``, which is not used.
    source, target : str
        Keys of `CONVENTIONS`.
    momentum : float, optional
        The source's, in its convention; its default unless given.
    epsilon, target_epsilon, count
        As in `convert_variance`.

    Returns
    -------
    weights : dict of array, shape (C,)
        float32; Caffe's ``scale_factor`` has shape (1,).
    arguments : dict of float
        The momentum and the epsilon to make the layer with. Both are fields of a named tuple.

    Raises
    ------
    ValueError
        If a name is missing or unknown, shapes differ, or a value cannot be.

    Examples
    --------
    >>> import numpy as np
    >>> torch = {"weight": np.ones(2), "bias": np.zeros(2), "running_mean": np.zeros(2),
    ...          "running_var": np.ones(2)}
    >>> port(torch, source="pytorch", target="keras").arguments
    {'momentum': 0.9, 'epsilon': 1e-05}
    """
    there, here = convention("source", source), convention("target", target)
    epsilon = there.epsilon if epsilon is None else epsilon
    momentum = there.momentum if momentum is None else momentum
    gamma, beta, mean, stored, factor = _named(weights, there)
    variance = convert_variance(
        stored, source=source, target=target, epsilon=epsilon, target_epsilon=target_epsilon,
        count=count, scale_factor=factor,
    )  # fmt: skip
    values = (gamma, beta, mean if factor is None else mean / factor, variance)
    ported = {name: each.astype("f4") for name, each in zip(here.names, values, strict=True)}
    if here.stores == "sums":
        ported["scale_factor"] = np.ones(1, "f4")
    momentum = convert_momentum(momentum, source=source, target=target)
    return Ported(
        ported,
        {
            here.momentum_name: momentum,
            here.epsilon_name: float(epsilon if target_epsilon is None else target_epsilon),
        },
    )


def _named(weights, source):
    """γ, β, the mean, what is stored and Caffe's factor, after a look at names and shapes."""
    also = {"sums": {"scale_factor"}}.get(source.stores, set())
    ignored = {"num_batches_tracked"} if source.name == "pytorch" else set()
    if unknown := set(weights) - set(source.names) - also - ignored:
        raise ValueError(
            f"weights of {source.name!r} have the names {', '.join((*source.names, *also))}; "
            f"received {', '.join(sorted(map(str, unknown)))} as well"
        )
    for name in (*source.names[2:], *also):
        if weights.get(name) is None:
            raise ValueError(f"weights of {source.name!r} must have {name}; it is missing")
    arrays = {n: finite_array(n, weights[n]) for n in source.names if weights.get(n) is not None}
    shapes = {name: each.shape for name, each in arrays.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"weights must all have the same shape (C,); received {found}")
    mean = arrays[source.names[2]]
    found = [arrays.get(source.names[0], 1 + 0 * mean), arrays.get(source.names[1], 0 * mean)]
    factor = None
    if also:
        given = np.ravel(weights["scale_factor"])
        if given.size != 1:
            raise ValueError(f"scale_factor must be one number; received {given.size}")
        factor = number("scale_factor", given[0].item(), 0, strictly=True)
    return (*found, mean, arrays[source.names[3]], factor)
