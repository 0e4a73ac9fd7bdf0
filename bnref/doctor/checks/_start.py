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

    With ρᵗ left, mean = (1 − ρᵗ) μ in all channels alike: the slope of a line through 0.
    """
    mean, _ = case.fresh[norm]
    stored = np.float64(norm.mean)
    if not np.dot(mean, mean) > 0:
        return 0.0, False
    slope = np.dot(mean, stored) / np.dot(mean, mean)
    rest = np.linalg.norm(stored - slope * mean) / (np.linalg.norm(stored) + 1e-30)
    return float(np.clip(1 - slope, 0, 1)), bool(rest < 0.3)
