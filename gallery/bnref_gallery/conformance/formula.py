"""Batch normalization as arXiv 1502.03167 has it, in float64, and what figures are compared by."""

import numpy as np

from bnref_gallery.conformance.asking import Implementation

__all__ = [
    "differentiated_along",
    "far",
    "gradient",
    "joined",
    "moments",
    "normalized",
    "size",
    "spread",
]
__all__ += ["stretch"]


def moments(x: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel; only of what the mask has."""
    rows = np.asarray(x, np.float64)
    rows = rows.reshape(-1, rows.shape[-1]) if mask is None else rows[mask]
    return rows.mean(0), rows.var(0)


def normalized(x: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float) -> np.ndarray:
    """x̂, which is y where γ is 1 and β is 0."""
    return (np.asarray(x, np.float64) - mean) / np.sqrt(variance + epsilon)


def gradient(x: np.ndarray, dy: np.ndarray, epsilon: float) -> np.ndarray:
    """dx: the three terms of the paper's section 3, put together."""
    mean, variance = moments(x)
    hat, dy = normalized(x, mean, variance, epsilon), np.asarray(dy, np.float64)
    axes = tuple(range(dy.ndim - 1))
    return (dy - dy.mean(axes) - hat * (dy * hat).mean(axes)) / np.sqrt(variance + epsilon)


def differentiated_along(
    x: np.ndarray, weights: np.ndarray, direction: np.ndarray, epsilon: float
) -> np.ndarray:
    """The gradient of Σ weights · tanh(y) by x, differentiated along the direction.

    By central differences of the first derivative, which is the paper's; right to some 1e-9.
    """
    x, step = np.asarray(x, np.float64), 1e-5 * np.asarray(direction, np.float64)
    ahead, behind = (
        gradient(each, weights / np.cosh(normalized(each, *moments(each), epsilon)) ** 2, epsilon)
        for each in (x + step, x - step)
    )
    return (ahead - behind) / 2e-5


def far(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, over the largest of what is expected; infinite for NaN."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise ValueError(f"actual has shape {actual.shape}, expected {expected.shape}")
    with np.errstate(invalid="ignore"):
        found = np.max(np.abs(actual - expected)) / np.max(np.abs(expected))
    return found if np.isfinite(found) else np.inf


def size(figure: float) -> str:
    """A figure of which one digit is of interest; small ones as powers of ten, which `1e-07` is."""
    return f"{figure:.0e}" if 0 < figure < 0.01 else f"{float(f'{figure:.1g}'):g}"


def stretch(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By how much each channel is multiplied: the standard deviation of y over that of x."""
    axes = tuple(range(np.ndim(x) - 1))
    return np.std(np.asarray(y, np.float64), axes) / np.std(np.asarray(x, np.float64), axes)


def spread(implementation: Implementation, array: np.ndarray) -> list[np.ndarray]:
    """The batch's halves, for what is asked on two replicas; else the batch."""
    return np.split(array, 2) if implementation.synchronized else [array]


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """The batch of all replicas."""
    return np.concatenate(parts)
