"""Precise BN: the population of the present weights, from fresh batches."""

import sys
from collections import defaultdict
from collections.abc import Iterable

import keras
import numpy as np
from tqdm import tqdm

from bnref.population._checking import check
from bnref.population._estimators import corrected, pooled
from bnref.population._over_workers import moments_of_workers, strategy_of_workers
from bnref.population._passing import Passes

ESTIMATORS = {"pooled": pooled, "corrected": corrected}


def recompute(
    model: keras.Model, batches: Iterable, *, variance: str = "pooled", dropout: bool = True
) -> int:
    """Replace the population statistics by those of ``batches`` under the present weights.

    Precise BN, another answer to question 2, *remembered how?*: every batch passes through the
    model in training mode (batch statistics in every norm) while the batch moments of each norm are
    collected; then the population of each is set to their combination. Nothing is assigned before
    the last batch has passed, so an error leaves the model as it was.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        Of any make: functional, Sequential, nested, subclassed; with at least one norm of
        `bnref.layers`, Keras or tf_keras that updates its population. A frozen one does not, and
        keeps what it has; so does one that is called with ``training=False``, which counts as it
        does in ``fit``: in a graph of Keras 3's layers the model's own ``training`` overrules it.
    batches : iterable
        A ``tf.data.Dataset``, a generator or a list. As for ``model.fit``: a tuple is (inputs,
        targets) or (inputs, targets, weights), of which the inputs are used; everything else is
        inputs, as is a tuple of as many arrays as the model has inputs.
    variance : {"pooled", "corrected"}
        Which estimator: `pooled` or `corrected`.
    dropout : bool
        Whether dropout, noise and random augmentation act, as they do in training. False where a
        norm behind them should know what it gets at inference, at which they are off.

    Returns
    -------
    int
        The number of norms whose population was replaced.

    Raises
    ------
    ValueError
        Unknown `variance`, no batch (on any worker), no norm to replace, moments that are not
        finite, or a norm that keeps its population though its variance is negative or not finite.

    Notes
    -----
    Wu & Johnson 2021, arXiv 2105.07576, section 3. In the scope of a strategy of several replicas
    in one process each replica passes batches of its own, all the same result as one device's;
    where a norm is synchronized, each passes its part of every batch instead. Of several workers
    every one must call it; each passes its own batches, and all get the population of the batches
    of all together: each may be given its own share of the data, or all the same. A progress bar is
    shown where a person watches. The random state moves as it does in any pass with dropout.
    """
    if variance not in ESTIMATORS:
        raise ValueError(f"variance must be one of {sorted(ESTIMATORS)}; received {variance!r}")
    return recompute_by(Passes(model, dropout=dropout), batches, variance=variance)


def recompute_by(passes: Passes, batches: Iterable, *, variance: str = "pooled") -> int:
    """As `recompute`, by passes that may have been compiled before, for the same model."""
    model, collected = passes.model, _collect(passes, batches)
    check(model, without=[norm.layer for norm, _ in collected])
    estimates = []
    for norm, moments in collected:
        with np.errstate(invalid="ignore"):  # a domain that is in no batch gives 0/0
            estimate = ESTIMATORS[variance](*moments)
        if not np.isfinite(estimate).all():
            check(model)  # if a norm's own population is the cause, this names it
            raise ValueError(f"batches gave moments that are not finite in layer {norm.path!r}")
        estimates.append((norm, *estimate))
    for norm, mean, var in estimates:
        norm.assign(mean, var)
    return len(estimates)


def _collect(passes, batches):
    """Pass the batches through the model; each norm with (counts, means, variances) of its own."""
    workers = strategy_of_workers(passes.model)
    rows, number = defaultdict(list), 0
    batches = tqdm(batches, "recomputing", unit="batch", disable=not sys.stderr.isatty())
    for number, seen in enumerate(passes.over(batches), start=1):  # noqa: B007
        for norm, moments in seen:
            _keep(rows[norm], *moments)
    collected = [_columns(rows[norm]) for norm in passes.norms]
    if workers is not None:
        collected = moments_of_workers(workers, collected)
    elif not number:
        raise ValueError("batches must hold at least one batch; received none")
    found = zip(passes.norms, collected, strict=True)
    found = [(norm, moments) for norm, moments in found if len(moments[0])]
    if not found:
        raise ValueError("model must have a batch norm that updates its population; found none")
    return found


def _columns(rows):
    """Counts, means and variances of some batches, an array each; empty ones of no batch."""
    return tuple(map(np.array, zip(*rows, strict=True))) or (np.zeros(0),) * 3


def _keep(kept, named, counts, means, variances):
    """Append (count, mean, variance) in float64; the groups of a batch one by one."""
    counts, means, variances = (np.asarray(each, np.float64) for each in (counts, means, variances))
    if named:  # of a domain, which is the same one in every batch
        kept.append((counts[:, 0], means, variances))
    else:
        kept.extend(zip(counts[:, 0], means, variances, strict=True))
