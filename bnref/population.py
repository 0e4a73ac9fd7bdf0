r"""Population statistics: Precise BN, passes that do not count, and a look at what is stored.

`recompute` throws the running average away and takes the statistics of the final weights from fresh
batches; `pooled` and `corrected` are its estimators.
"""

from collections.abc import Container, Iterable
from functools import partial

import keras
import numpy as np

from bnref._checks import stored_variance
from bnref._unchanged import unchanged

__all__ = [
    "check",
    "corrected",
    "pooled",
    "recompute",
    "unchanged",
]


def pooled(
    counts: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Moments of all examples of all batches together, whatever the sizes of the batches.

    .. math:: \mu = \frac{\sum_i n_i \mu_i}{\sum_i n_i}, \qquad
              \sigma^2 = \frac{\sum_i n_i\,(\sigma_i^2 + (\mu_i - \mu)^2)}{\sum_i n_i}

    Assumes that every example comes from the same distribution, and no more: the same examples
    split differently give the same result. Equal to the paper's pooled E[x²] − E[x]², without the
    cancellation.

    Parameters
    ----------
    counts : array, shape (K,)
    means, variances : array, shape (K, C)
        Mean and biased variance of each of K batches. An axis of D domains may stand after the
        first; each is pooled by itself.

    Returns
    -------
    mean, variance : array, shape (C,) or (D, C)

    Notes
    -----
    Wu & Johnson 2021, arXiv 2105.07576, section 3 and appendix.
    """
    weights = (counts / np.sum(counts, 0))[..., None]
    mean = np.sum(weights * means, 0)
    return mean, np.sum(weights * (variances + np.square(means - mean)), 0)


def corrected(
    counts: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean of the means, and of the Bessel-corrected variances.

    .. math:: \mu = \frac1K\sum_i \mu_i, \qquad
              \sigma^2 = \frac1K\sum_i \frac{n_i}{n_i - 1}\,\sigma_i^2

    Assumes that the values in a batch are independent: where they are not (neighbouring pixels,
    frames of one utterance) the variance between the batches is missing. Parameters and results
    as for `pooled`; a batch of one value a channel is refused.

    Notes
    -----
    Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 2, step 10.
    """
    if np.min(counts) < 2:
        raise ValueError("variance='corrected' divides by n − 1; a batch had one value a channel")
    factor = (counts / (counts - 1))[..., None]
    return np.mean(means, 0), np.mean(factor * variances, 0)


ESTIMATORS = {"pooled": pooled, "corrected": corrected}


def recompute(model: keras.Model, batches: Iterable, *, variance: str = "pooled") -> int:
    """Replace the population statistics by those of ``batches`` under the present weights.

    Precise BN, another answer to question 2, *remembered how?*: every batch passes through the
    model in training mode (dropout on, batch statistics in every layer) while the batch moments of
    each layer are collected; then the population of each layer is set to their combination. Nothing
    is assigned before the last batch has passed, so an error leaves the model as it was.

    Parameters
    ----------
    model : keras.Model
        With at least one bnref layer that updates its population (a frozen layer does not, and
        keeps what it has).
    batches : iterable
        Each item is passed as ``model(batch, training=True)``: inputs only, no labels.
    variance : {"pooled", "corrected"}
        Which estimator: `pooled` or `corrected`.

    Returns
    -------
    int
        The number of layers whose population was replaced.

    Raises
    ------
    ValueError
        Unknown `variance`, no batch, no layer to replace, moments that are not finite, or a layer
        that keeps its population though its variance is negative or not finite.

    Notes
    -----
    Wu & Johnson 2021, arXiv 2105.07576, section 3.
    """
    if variance not in ESTIMATORS:
        raise ValueError(f"variance must be one of {sorted(ESTIMATORS)}; received {variance!r}")
    collected = _collect(model, batches)
    check(model, without=collected)
    estimates = {}
    for layer, rows in collected.items():
        counts, means, variances = map(np.array, zip(*rows, strict=True))
        with np.errstate(invalid="ignore"):  # a domain that is in no batch gives 0/0
            estimate = ESTIMATORS[variance](counts, means, variances)
        if not np.isfinite(estimate).all():
            check(model)  # if a layer's own population is the cause, this names it
            raise ValueError(f"batches gave moments that are not finite in layer {layer.name!r}")
        estimates[layer] = estimate
    for layer, (mean, var) in estimates.items():
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(var)
    return len(estimates)


def check(model: keras.layers.Layer, *, without: Container = ()) -> None:
    """Refuse a population whose variance is negative or not finite, in any layer of ``model``.

    Averaging weights as if they were all alike, a server's optimizer, or one batch that overflowed
    can leave one behind. `bnref.training.evaluate`, `bnref.folding.fold` and `recompute` ask it.

    Parameters
    ----------
    model : keras.Model or layer
        Layers of any library that have a ``moving_variance`` are looked at.
    without : collection of layers
        Not looked at.

    Raises
    ------
    ValueError
        Names the layer, the channels and a value.
    """
    for layer in model._flatten_layers():
        if getattr(layer, "moving_variance", None) is not None and layer not in without:
            stored_variance(layer.name, layer.moving_variance)


def _collect(model, batches):
    """Pass the batches through the model; (count, mean, variance) of each, for each layer."""
    # Keras offers no public walk through nested models and the layers inside layers.
    layers = [layer for layer in model._flatten_layers() if hasattr(layer, "update_population")]
    rows = {layer: [] for layer in layers}
    overrides = [vars(layer).get("update_population") for layer in layers]
    state = [(each, each.numpy()) for layer in layers for each in layer.non_trainable_variables]
    try:
        for layer in layers:
            # For these passes alone: collect the moments in place of updating the population.
            layer.update_population = partial(_keep, rows[layer])
        number = 0
        for number, batch in enumerate(batches, start=1):  # noqa: B007
            model(batch, training=True)
    finally:
        for layer, own in zip(layers, overrides, strict=True):
            del layer.update_population
            if own is not None:
                layer.update_population = own
        for variable, value in state:  # such as the number of updates
            variable.assign(value)
    if not number:
        raise ValueError("batches must hold at least one batch; received none")
    rows = {layer: kept for layer, kept in rows.items() if kept}
    if not rows:
        raise ValueError("model must have a bnref layer that updates its population; found none")
    return rows


def _keep(kept, moments):
    """Append (count, mean, variance) in float64; the groups of a batch one by one."""
    counts, mean, variance = (np.float64(each) for each in moments[2:3] + moments[:2])
    if moments.rows.named:
        kept.append((counts[:, 0], mean, variance))
    else:
        kept.extend(zip(counts[:, 0], mean, variance, strict=True))
