"""Whether the examples of a batch are more alike than those of different batches."""

from typing import Any, NamedTuple

import numpy as np

from bnref.norms import Norm

PERMUTATIONS = 99


class Alike(NamedTuple):
    """The norm whose batches are most alike.

    Attributes
    ----------
    norm : Norm
    values : array, shape (B, N, C)
        The means of each example over its positions.
    times : float
        Their `alikeness`.
    by_chance : float
        The largest that random regroupings of the same examples give.
    """

    norm: Norm
    values: np.ndarray
    times: float
    by_chance: float


def most_alike(calls_of: dict[Norm, list[Any]], batches: int) -> Alike | None:
    """The norm whose batches are most alike; None without 4 equal batches of 2 examples or more.

    Parameters
    ----------
    calls_of : dict
        What each norm was given, call by call; norms that are called once a batch are judged.
    batches : int
    """
    best = None
    for norm, calls in calls_of.items():
        values = examples(calls) if len(calls) == batches else None
        if values is None or len(values) < 4 or values.shape[1] < 2:
            continue
        times = alikeness(values)
        if best is None or times > best[2]:
            best = norm, values, times
    return best and Alike(*best, by_chance(best[1]))


def alikeness(values: np.ndarray) -> float:
    """How many times more the means of batches vary than those of random batches would.

    The F ratio of a one-way analysis of variance, between the batches over within them, averaged
    over the channels. Random batches give about 1, whatever the distribution.

    Parameters
    ----------
    values : array, shape (B, N, C)
        Of each batch and example.
    """
    _, size, _ = values.shape
    between = size * np.var(values.mean(1), axis=0, ddof=1)
    within = np.mean(np.var(values, axis=1, ddof=1), axis=0)
    known = within > 1e-12 * (1 + np.square(values.mean((0, 1))))
    return float(np.mean(between[known] / within[known])) if known.any() else 1.0


def by_chance(values: np.ndarray, seed: int = 0) -> float:
    """The largest `alikeness` among random regroupings of the same examples."""
    random, (batches, size, channels) = np.random.default_rng(seed), values.shape
    flat = values.reshape(batches * size, channels)
    found = [
        alikeness(flat[random.permutation(len(flat))].reshape(values.shape))
        for _ in range(PERMUTATIONS)
    ]
    return max(found)


def examples(calls: list[Any], most: int = 64) -> np.ndarray | None:
    """The means of each example over its positions, shape (B, N, C), of ``most`` channels."""
    if len({each.means.shape for each in calls}) != 1:
        return None
    step = -(-calls[0].means.shape[-1] // most)
    values = np.array([each.means[..., ::step] for each in calls], "float64")
    return values if np.isfinite(values).all() else None
