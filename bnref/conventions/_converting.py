"""Conversions of the momentum, and of what is remembered."""

import numpy as np
from numpy.typing import ArrayLike

from bnref._checks import finite_array, number, whole_number
from bnref.conventions._frameworks import convention


def convert_momentum(value: float, *, source: str, target: str) -> float:
    """The same moving average in another framework's number: 0.1 in PyTorch is 0.9 in Keras.

    Parameters
    ----------
    value : float, 0 ≤ value ≤ 1
        As the source has it. PyTorch's ``None``, the mean of all batches, has no such number:
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
    there, here = convention("source", source), convention("target", target)
    value = number(there.momentum_name, value, 0, 1)
    # Rounded where 1 - 0.9 has left 0.09999999999999998.
    same = there.momentum_weighs == here.momentum_weighs
    return value if same else round(1 - value, 15)


def convert_variance(
    stored: ArrayLike,
    *,
    source: str,
    target: str,
    epsilon: float | None = None,
    target_epsilon: float | None = None,
    count: int | None = None,
    scale_factor: float | None = None,
) -> np.ndarray:
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
    there, here = convention("source", source), convention("target", target)
    epsilon = number("epsilon", _or(epsilon, there.epsilon), 0, strictly=True)
    new = number("target_epsilon", _or(target_epsilon, epsilon), 0, strictly=True)
    variance = _variance(stored, there, epsilon, scale_factor)
    n = count if count is None else whole_number("count", count, least=2)
    if n and there.bessel != here.bessel:
        variance = variance * (n / (n - 1) if here.bessel else (n - 1) / n)
    variance = variance + (epsilon - new)
    if (variance < 0).any():
        raise ValueError(
            f"target_epsilon must be at most {new + variance.min():g}, where the least variance "
            f"becomes 0; received {new!r}"
        )
    return (variance + new) ** -0.5 if here.stores == "inverse deviation" else variance


def _variance(stored, source, epsilon, scale_factor):
    if source.stores == "inverse deviation":
        stored = finite_array("inv_std", stored, 0, strictly=True)
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
        scale_factor = number("scale_factor", scale_factor, 0, strictly=True)
        return finite_array(source.names[3], stored, 0) / scale_factor
    return finite_array(source.names[3], stored, 0)


def _or(value, default):
    return default if value is None else value
