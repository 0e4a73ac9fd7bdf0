"""Moments that several workers collected, each from batches of its own."""

import numpy as np
import tensorflow as tf

from bnref.functional._replicas import of_all


def strategy_of_workers(model):
    """The strategy of a model that several workers hold, else None."""
    strategy = getattr(model, "distribute_strategy", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return None
    here = len(strategy.extended.worker_devices)
    return strategy if strategy.num_replicas_in_sync > here else None


def of_workers(strategy, value):
    """The values of all workers, one row each, where each gives an array of the same shape."""
    rows = of_all(strategy, lambda own: own, tf.constant(value, tf.float64))
    return rows[:: len(strategy.extended.worker_devices)]


def moments_of_workers(strategy, collected):
    """For each norm the moments of all workers' batches.

    All get the same, whether each has passed its own share of the data or all have passed the same
    batches: what all repeat alike changes no mean.

    Parameters
    ----------
    strategy : tf.distribute.MultiWorkerMirroredStrategy
    collected : list of tuple
        For each norm, in the same order on all workers, counts (K,), means (K, C) and variances
        (K, C) of this worker's K batches, as arrays; an axis of D domains may stand after the
        first. K may differ between the workers.

    Returns
    -------
    list of tuple
        The same for the batches of all workers.

    Raises
    ------
    ValueError
        On all workers: one has no batch, or none for a norm that has some on another.
    """
    own = [len(counts) for counts, *_ in collected]
    without = of_workers(strategy, [sum(own)])[:, 0] == 0
    if not without.any():
        sizes = of_workers(strategy, own).astype(int)
        without = ((sizes == 0) & (sizes > 0).any(0)).any(1)
    if without.any():
        raise ValueError(
            "batches must hold at least one batch on every worker, for each norm; received none on "
            f"worker {np.argmax(without)} of {len(without)}"
        )
    return [
        _joined(strategy, moments, each) if each.any() else moments
        for moments, each in zip(collected, sizes.T, strict=True)
    ]


def _joined(strategy, moments, sizes):
    """The moments of one norm; workers with fewer batches fill up with rows that are cut off."""
    room = np.max(sizes)
    filled = [
        np.pad(each, [(0, room - len(each)), *[(0, 0)] * (each.ndim - 1)]) for each in moments
    ]
    gathered = [of_workers(strategy, each) for each in filled]
    return tuple(
        np.concatenate([rows[:size] for rows, size in zip(each, sizes, strict=True)])
        for each in gathered
    )
