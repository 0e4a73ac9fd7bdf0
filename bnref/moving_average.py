r"""What an exponential average does to its start, to a drift and to noise, in closed form.

P ← ρP + (1 − ρ)B, where B is the mean of one batch: a true mean, and noise of standard deviation
v. After t batches P holds three errors: what is left of the start, the lag behind a mean that
moves, and what is left of the noise. Batches may be alike: φ is the correlation of the noise of
one batch with that of the next, φᵏ that of the k-th after it.
"""

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["fluctuation", "lag", "start_weight"]


def start_weight(momentum: ArrayLike, steps: ArrayLike) -> float | np.ndarray:
    """The share of the start value in the average after t batches, ρᵗ.

    Parameters
    ----------
    momentum : float or array, 0 ≤ momentum ≤ 1
        ρ, the weight of the old value.
    steps : int or array, ≥ 0
        t.

    Returns
    -------
    float or array

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    _check(momentum=(momentum, 0, 1), steps=(steps, 0, np.inf))
    return np.power(momentum, np.asarray(steps, float))


def lag(momentum: ArrayLike) -> float | np.ndarray:
    """How many steps the average is behind a mean that moves steadily, ρ/(1 − ρ).

    Parameters
    ----------
    momentum : float or array, 0 ≤ momentum < 1

    Returns
    -------
    float or array
        In steps, once the start has gone.

    Raises
    ------
    ValueError
        If it is out of its range.
    """
    _check(momentum=(momentum, 0, 1 - 1e-12))
    return momentum / (1 - np.asarray(momentum, float))


def fluctuation(
    momentum: ArrayLike, correlation: ArrayLike = 0.0, steps: int | None = None
) -> float | np.ndarray:
    r"""Standard deviation of the average, in that of one batch's mean.

    .. math:: \sqrt{\frac{1-\rho}{1+\rho} \cdot \frac{1+\rho\varphi}{1-\rho\varphi}}

    for many steps. From variance and covariance step by step, after t of them: with
    :math:`K_t = (1-\rho)\frac{1-(\rho\varphi)^t}{1-\rho\varphi}`, the covariance of average and
    batch, :math:`V_t = \rho^2 V_{t-1} + (1-\rho)^2 + 2\rho(1-\rho)\varphi K_{t-1}`, in v².

    Parameters
    ----------
    momentum : float, 0 ≤ momentum < 1
        ρ; an array if `steps` is not given.
    correlation : float, -1 < correlation < 1
        φ, of one batch's mean with the next one's.
    steps : int, ≥ 0, optional
        t. Many unless given.

    Returns
    -------
    float or array

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Notes
    -----
    Its −2nd power is the effective number of batches: how many independent ones have a plain mean
    as steady as the average; 199 at ρ = 0.99, for batches that are independent.
    """
    _check(momentum=(momentum, 0, 1 - 1e-12), correlation=(correlation, -1 + 1e-12, 1 - 1e-12))
    rho, both = np.asarray(momentum, float), np.multiply(momentum, correlation)
    if steps is None:
        return np.sqrt((1 - rho) / (1 + rho) * (1 + both) / (1 - both))
    _check(steps=(steps, 0, np.inf))
    variance = covariance = 0.0
    for _ in range(steps):
        variance = rho**2 * variance + (1 - rho) ** 2 + 2 * (1 - rho) * both * covariance
        covariance = both * covariance + 1 - rho
    return np.sqrt(variance)


def _check(**arguments):
    for name, (value, least, most) in arguments.items():
        values = np.asarray(value)
        if values.dtype.kind not in "fiu" or not isinstance(
            value, Real | np.ndarray | list | tuple
        ):
            raise ValueError(f"{name} must be a number; received {value!r}")
        if not np.all((values >= least) & (values <= most)):
            raise ValueError(
                f"{name} must be between {round(least, 9):g} and {round(most, 9):g}; "
                f"received {value!r}"
            )
