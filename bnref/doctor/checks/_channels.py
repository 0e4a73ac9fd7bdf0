"""What several checks compute channel by channel."""

from typing import Any

import numpy as np

TINY = 1e-12  # a variance that is as good as none, and keeps a division by one that is 0 finite


def deviation(variance: Any) -> np.ndarray:
    """The standard deviation of each channel, more than 0 in a constant one too."""
    return np.sqrt(np.asarray(variance) + TINY)


def ratio(variance: Any, other: Any) -> np.ndarray:
    """How many times the other variance this one is, in each channel; 1 where both are 0."""
    return (np.asarray(variance) + TINY) / (np.asarray(other) + TINY)


def counted(marked: dict[Any, np.ndarray], *, above: float = 0) -> dict[Any, tuple[int, int]]:
    """How many channels are marked and how many there are, of each norm with more than this share.

    Parameters
    ----------
    marked : dict of array of bool, shape (C,)
        By each norm, its channels.
    above : float
        A share of the channels; any one is enough unless given.
    """
    return {
        norm: (int(each.sum()), each.size) for norm, each in marked.items() if each.mean() > above
    }
