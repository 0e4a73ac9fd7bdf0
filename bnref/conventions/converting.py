"""Conversions of the momentum, of what is remembered, and of all weights of a layer."""

from typing import NamedTuple

import numpy as np

from bnref.conventions import checking
from bnref.conventions.frameworks import convention

__all__ = ["Ported", "convert_momentum", "convert_variance", "port"]


class Ported(NamedTuple):
    """A layer's weights and arguments, under the names of the framework that they are for.

    Attributes
    ----------
    weights : dict of array, shape (C,)
        float32; Caffe's ``scale_factor`` has shape (1,).
    arguments : dict of float
        The momentum and the epsilon to make the layer with.
    """

    weights: dict
    arguments: dict


def convert_momentum(value, *, source, target):
    """The same moving average in another framework's number: 0.1 in PyTorch is 0.9 in Keras.

    Parameters
    ----------
    value : float, 0 ≤ value ≤ 1
        As the source has it. PyTorch's ``None``, the mean of all batches, is none of them:
        that is `bnref.layers.CumulativeBatchNorm`.
    source, target : str
        Keys of `CONVENTIONS`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument is not one of those accepted.
    """
    source, target = convention("source", source), convention("target", target)
    value = checking.number(source.momentum_name, value, 0, 1)
    # Rounded where 1 - 0.9 has left 0.09999999999999998.
    same = source.momentum_weighs == target.momentum_weighs
    return value if same else round(1 - value, 15)


def convert_variance(
    stored, *, source, target, epsilon=None, target_epsilon=None, count=None, scale_factor=None
):
    """What the target remembers where the source remembers this; inference stays the same.

    Parameters
    ----------
    stored : array, shape (C,)
        σ²; or as the source stores it, see `Convention`.
    source, target : str
        Keys of `CONVENTIONS`.
    epsilon : float, > 0, optional
        The source's; its default unless given. Lasagne's 1/√(σ² + ε) holds it, so it must be right.
    target_epsilon : float, > 0, optional
        `epsilon` unless given. If another, σ² makes up for it, so that σ² + ε stays as it is.
    count : int, ≥ 2, optional
        Values a channel in a training batch, N·H·W, if the variance shall change between biased
        and Bessel-corrected as well. Unless given it does not, which keeps inference the same.
    scale_factor : float, > 0, optional
        Caffe's third blob, which it must come with.

    Returns
    -------
    array, shape (C,)
        float64. For Caffe the sum for a ``scale_factor`` of 1.

    Raises
    ------
    ValueError
        If a value is negative, not finite or cannot be: 1/√(σ² + ε) above 1/√ε, or σ² below zero
        after the change of epsilon; and for unknown names.
    """
    source, target = convention("source", source), convention("target", target)
    epsilon = checking.number("epsilon", _or(epsilon, source.epsilon), 0, strictly=True)
    new = checking.number("target_epsilon", _or(target_epsilon, epsilon), 0, strictly=True)
    variance = _variance(stored, source, epsilon, scale_factor)
    if count is not None and source.bessel != target.bessel:
        n = checking.count(count)
        variance = variance * (n / (n - 1) if target.bessel else (n - 1) / n)
    variance = variance + (epsilon - new)
    if (variance < 0).any():
        raise ValueError(
            f"target_epsilon must be at most {new + variance.min():g}, where the least variance "
            f"becomes 0; received {new!r}"
        )
    return (variance + new) ** -0.5 if target.stores == "inverse deviation" else variance


def port(weights, *, source, target, momentum=None, epsilon=None, target_epsilon=None, count=None):
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
    Ported

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
    epsilon = _or(epsilon, there.epsilon)
    gamma, beta, mean, stored, factor = _named(weights, there)
    variance = convert_variance(
        stored, source=source, target=target, epsilon=epsilon, target_epsilon=target_epsilon,
        count=count, scale_factor=factor,
    )  # fmt: skip
    values = (gamma, beta, mean if factor is None else mean / factor, variance)
    ported = {name: each.astype("f4") for name, each in zip(here.names, values, strict=True)}
    if here.stores == "sums":
        ported["scale_factor"] = np.ones(1, "f4")
    momentum = convert_momentum(_or(momentum, there.momentum), source=source, target=target)
    return Ported(
        ported,
        {here.momentum_name: momentum, here.epsilon_name: float(_or(target_epsilon, epsilon))},
    )


def _variance(stored, source, epsilon, scale_factor):
    if source.stores == "inverse deviation":
        stored = checking.array("inv_std", stored, 0, strictly=True)
        variance = stored**-2 - epsilon
        # float32 leaves a variance of 0 a little below it.
        if (variance < -1e-5 * epsilon).any():
            raise ValueError(
                f"inv_std must be at most {epsilon**-0.5:g}, which is 1/√epsilon; received "
                f"{stored.max():g}: was it stored with another epsilon?"
            )
        return np.maximum(variance, 0)
    if source.stores == "sums":
        if scale_factor is None:
            raise ValueError("scale_factor must come with Caffe's sums; received None")
        scale_factor = checking.number("scale_factor", scale_factor, 0, strictly=True)
        return checking.array(source.names[3], stored, 0) / scale_factor
    return checking.array(source.names[3], stored, 0)


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
    arrays = {n: checking.array(n, weights[n]) for n in source.names if weights.get(n) is not None}
    shapes = {name: each.shape for name, each in arrays.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"weights must all have the same shape (C,); received {told}")
    mean = arrays[source.names[2]]
    found = [arrays.get(source.names[0], 1 + 0 * mean), arrays.get(source.names[1], 0 * mean)]
    factor = None
    if also:
        given = np.ravel(weights["scale_factor"])
        if given.size != 1:
            raise ValueError(f"scale_factor must be one number; received {given.size}")
        factor = checking.number("scale_factor", given[0].item(), 0, strictly=True)
    return (*found, mean, arrays[source.names[3]], factor)


def _or(value, default):
    return default if value is None else value
