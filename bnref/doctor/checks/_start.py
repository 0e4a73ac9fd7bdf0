"""What a new layer begins with, and how much of it is left in a population."""

import numpy as np

from bnref.doctor.checks._channels import ratio


def at_start(norm):
    """Whether the population is what a new layer has: 0 and 1, to the bit."""
    return bool(np.all(np.asarray(norm.mean) == 0) and np.all(np.asarray(norm.variance) == 1))


def untrained(norm):
    """Whether γ and β, too, are what a new layer has."""
    gamma, beta = (np.asarray(0 if each is None else each) for each in (norm.gamma, norm.beta))
    return bool(np.all((gamma == 1) | (gamma == 0)) and np.all(beta == 0))


def left_of_start(case):
    """The share of 0 and 1 that is left in the populations, by themselves; 0 where it is not that.

    With ρᵗ left, a stored mean is (1 − ρᵗ) μ in all channels alike, the slope of a line through 0,
    and a stored variance is ρᵗ + (1 − ρᵗ) σ²: nearly, for the weights have moved meanwhile. And the
    share is the same in every norm of one momentum; inputs of another scale move the first alone.
    """
    shares = []
    for norm in case.followers:
        mean, variance = case.fresh[norm]
        stored = np.asarray(norm.mean, np.float64)
        if not np.dot(mean, mean) > 0:
            continue
        slope = np.dot(mean, stored) / np.dot(mean, mean)
        left = float(np.clip(1 - slope, 0, 1))
        rest = np.linalg.norm(stored - slope * mean) / (np.linalg.norm(stored) + 1e-30)
        expected = left + (1 - left) * variance
        off = np.median(np.abs(np.log(ratio(np.asarray(norm.variance, np.float64), expected))))
        if rest > 0.5 or off > 0.25:
            return 0.0
        shares.append(left)
    return float(np.median(shares)) if shares and np.ptp(shares) < 0.25 else 0.0
