"""What a new layer begins with, and how much of it is left in a population."""

import numpy as np


def at_start(norm):
    """Whether the population is what a new layer has: 0 and 1, to the bit."""
    return bool(np.all(np.asarray(norm.mean) == 0) and np.all(np.asarray(norm.variance) == 1))


def untrained(norm):
    """Whether γ and β, too, are what a new layer has."""
    gamma, beta = (np.asarray(0 if each is None else each) for each in (norm.gamma, norm.beta))
    return bool(np.all((gamma == 1) | (gamma == 0)) and np.all(beta == 0))


def left_of_start(case, norm):
    """The share of a new layer's 0 and 1 that is left in the population, and whether it fits.

    With ρᵗ left, the stored mean is (1 − ρᵗ) μ in all channels alike, the slope of a line through
    0; and the stored variance is ρᵗ + (1 − ρᵗ) σ². Both must hold to a tenth and a fifth: inputs of
    another scale fit the one or the other, not both.
    """
    mean, variance = case.fresh[norm]
    stored = np.float64(norm.mean)
    if not np.dot(mean, mean) > 0:
        return 0.0, False
    slope = np.dot(mean, stored) / np.dot(mean, mean)
    rest = np.linalg.norm(stored - slope * mean) / (np.linalg.norm(stored) + 1e-30)
    left = float(np.clip(1 - slope, 0, 1))
    expected = left + (1 - left) * variance
    off = np.median(np.abs(np.log((np.float64(norm.variance) + 1e-12) / (expected + 1e-12))))
    return left, bool(rest < 0.1 and off < 0.2)
