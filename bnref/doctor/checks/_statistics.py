"""What several checks compute: distances in units of the noise that sampling alone would make."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from bnref.doctor.checks._channels import TINY, deviation, ratio


def higher(loss: float, than: float) -> bool:
    """Whether a loss is higher than another by so much that it counts: by a tenth and by 0.02.

    The noise of eight batches is several times below either. A loss that is not finite counts.
    """
    return bool(not np.isfinite(loss) or loss - than > 0.1 * than + 0.02)


class Harm(NamedTuple):
    """What the model loses by its stored population, on the same examples and weights."""

    harmed: bool
    words: str


def harm(case: Any) -> Harm:
    """Whether the statistics of these batches serve the model better than its population does.

    Same weights, same examples, both at inference: what differs is neither overfitting nor
    dropout. A loss that is `higher` is harm; without targets, outputs that differ by 0.3 of their
    own deviation, several times what the noise of eight batches makes.
    """
    stored, fresh = case.inference, case.refreshed
    if stored.loss is not None and fresh.loss is not None:
        harmed = higher(stored.loss, fresh.loss)
        words = f"the loss at inference is {stored.loss:.3g} by the stored population and "
        return Harm(harmed, f"{words}{fresh.loss:.3g} by the statistics of these batches")
    ours, theirs = (np.concatenate(each.outputs).astype(float) for each in (stored, fresh))
    ours, theirs = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    with np.errstate(all="ignore"):
        spread = np.sqrt(np.mean(np.square(theirs - theirs.mean(0))))
        difference = np.sqrt(np.mean(np.square(ours - theirs))) / (spread + TINY)
    words = f"the stored population moves the outputs by {difference:.2g} of their deviation"
    return Harm(not difference < 0.3, words)


class Departure(NamedTuple):
    """How far a population lies from the moments of fresh batches, channel by channel.

    Attributes
    ----------
    shift : array, shape (C,)
        Of the mean, in standard deviations of the inputs.
    ratio : array, shape (C,)
        Stored variance over fresh variance.
    z : array, shape (C,)
        The shift over its standard error: by how many batches the fresh mean is known, and by how
        many the average follows.
    """

    shift: np.ndarray
    ratio: np.ndarray
    z: np.ndarray


def departure(case: Any, norm: Any) -> Departure:
    """The distance of a norm's population from the fresh one."""
    calls = case.training.of(norm)
    mean, variance = case.fresh[norm]
    means = np.array([each.mean for each in calls])
    stored = np.asarray(norm.mean, np.float64), np.asarray(norm.variance, np.float64)
    shift = (stored[0] - mean) / deviation(variance)
    # An average of momentum ρ has the noise of (1 + ρ)/(1 − ρ) batches, these B that of B.
    momentum = norm.momentum if np.isfinite(norm.momentum) else 0.99
    noise = np.sqrt(1 / len(calls) + (1 - momentum) / (1 + momentum))
    error = means.std(0, ddof=1) * noise if len(calls) > 1 else np.full(mean.shape, np.nan)
    with np.errstate(all="ignore"):
        z = (stored[0] - mean) / error
    return Departure(shift, ratio(stored[1], variance), z)


def effective_count(calls: list[Any]) -> float:
    """How many independent values a batch's statistics are worth.

    Positions of one image are alike, so that they count for less: the variance of a batch's mean
    is that of the examples' means over N, and it would be the whole variance over this number.

    Both are averaged over the batches before they are divided: of two examples the squared
    difference scatters by so much that the median of its inverse is twice too large.
    """
    several = [np.asarray(each.means, np.float64) for each in calls if len(each.means) > 1]
    between = np.mean([means.var(0, ddof=1) for means in several] or 0, 0)
    within = np.mean([each.variances.mean(0, dtype="float64") for each in calls], 0)
    with np.errstate(all="ignore"):
        found = np.atleast_1d(len(calls[0].means) * (within + between) / between)
    found = found[np.isfinite(found)]
    return float(np.median(found)) if found.size else float(calls[0].values)


@cache
def spread_of(momentum: float) -> float:
    """The share of a batch's noise that is left in an exponential average: √((1 − ρ)/(1 + ρ))."""
    return float(np.sqrt((1 - momentum) / (1 + momentum)))


def many(count: int, name: str, ending: str = "s") -> str:
    """A count with its noun: "1 channel", "2 channels", "2 batches" with the ending "es"."""
    return f"{count} {name}{'' if count == 1 else ending}"


def number(value: float) -> str:
    """A number for a sentence: three digits, no exponent where it can be read without."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
