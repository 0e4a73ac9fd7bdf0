"""Question 3, used when: what is normalized cannot be, or what comes out cannot be used."""

import numpy as np

from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._channels import TINY, counted, deviation
from bnref.doctor.checks._check import Found, check, paths

MANY = 0.2  # of the channels: where fewer come out as β, a network of spare channels does as well


@check(
    3,
    "gallery/questions/plot_with_and_without_normalizes_its_logits",
    symptoms={"no better than without batch norm": "sometimes"},
)
def norm_on_logits(case):
    """A norm stands on the logits, and bounds how sure the model can be."""
    norm = case.on_logits
    if norm is None:
        return None
    gamma = 1.0 if norm.gamma is None else float(np.mean(np.abs(norm.gamma)))
    evidence = (
        f"its outputs are the logits: of deviation {gamma:.2g} over the batch, in every class"
    )
    fix = "logits = keras.layers.Dense(classes)(x)  # the last layer, with no norm behind it"
    return Found(paths([norm]), evidence, fix)


@check(
    3,
    "gallery/pitfalls/plot_no_gradient_through_the_statistics",
    symptoms={"no better than without batch norm": "seldom"},
)
def bias_without_effect(case):
    """A bias before a norm has grown large: no gradient passes through the statistics.

    With the gradient a bias before a norm gets none and stays near where it began; ten deviations
    of the norm's inputs are more than any initializer gives.
    """
    found = {}
    for norm in case.norms:
        bias = getattr(case.source(norm), "bias", None)
        if bias is None or norm not in case.fresh:
            continue
        bias, spread = np.asarray(bias), deviation(case.fresh[norm][1])
        if bias.shape == spread.shape and np.median(np.abs(bias) / spread) > 10:
            found[norm] = float(np.median(np.abs(bias) / spread))
    if not found:
        return None
    evidence = f"the bias before it is {statistics.number(max(found.values()))} deviations large"
    fix = "x = keras.layers.Dense(64, use_bias=False)(x)  # β does what a bias would\n"
    fix += "x = keras.layers.BatchNormalization()(x)"
    return Found(paths(found), evidence, fix)


@check(
    3,
    "gallery/pitfalls/plot_the_one_pass_variance_cancels",
    symptoms={"NaN or infinity": "sometimes", "worse on two GPUs": "seldom"},
)
def large_mean(case):
    """The mean is so large against the deviation that a variance taken in one pass cancels.

    E[x²] − E[x]² loses twice the digits of μ/σ: at 100 the fourth of seven, which shows where
    Keras's ``synchronized=True`` uses it; at 1,000 the sixth, which XLA does to any variance.
    One channel is enough, since each is divided by its own; ε counts, for it is in what a channel
    is divided by, and keeps one that hardly varies from being called far. bnref takes two passes.
    """
    ratios = {
        norm: np.abs(mean) / np.sqrt(variance + (norm.epsilon if norm.epsilon > 0 else TINY))
        for norm, (mean, variance) in case.fresh.items()
    }
    found = counted({norm: each > norm.cancels_above for norm, each in ratios.items()})
    if not found:
        return None
    worst = max(found, key=lambda norm: ratios[norm].max())
    ratio, (far, channels) = ratios[worst].max(), found[worst]
    evidence = (
        f"|μ|/√(σ² + ε) of its inputs is up to {statistics.number(ratio)}, and too large in {far} "
        f"of {channels} channels"
    )
    fix = "x = (x - x.mean(axis=0)) / x.std(axis=0)  # centre the inputs; or, for the layer:\n"
    fix += "norm = bnref.layers.SyncBatchNorm()  # a variance in two passes"
    return Found(paths(found), evidence, fix)


@check(
    3,
    "gallery/pitfalls/plot_half_precision_overflows_and_stands_still",
    symptoms={"NaN or infinity": "sometimes", "every prediction is the same": "seldom"},
)
def variance_overflows(case):
    """The batch's moments overflow, though the inputs of the model are finite.

    In float32, in which every library takes them: above 3e38, which x² passes at 2e19.
    """
    found = [
        norm
        for norm, moments in case.fresh.items()
        if not np.isfinite(np.asarray(moments, np.float32)).all()
    ]
    if not found:
        return None
    dtype = case.training.of(found[0])[0].dtype
    evidence = (
        f"mean or variance of the first norm's inputs ({dtype}) are beyond float32 in training mode"
    )
    return Found(paths(found[:1]), evidence, "x = keras.layers.Rescaling(1 / 255)(x)  # or float32")


@check(
    3,
    "learn/what_it_computes",
    symptoms={"no better than without batch norm": "seldom"},
    unless=["variance_overflows"],
)
def dead_channels(case):
    """Channels whose inputs are constant come out as β, whatever the example.

    Constant in every batch, to rounding; more than a fifth of a norm's channels.
    """
    dead = {
        norm: variance <= TINY * (np.square(mean) + TINY)
        for norm, (mean, variance) in case.fresh.items()
        if case.training.of(norm)[0].values > 1
    }
    found = counted(dead, above=MANY)
    if not found:
        return None
    number, channels = max(found.values())
    evidence = f"{number} of {channels} channels have a variance of 0 in every batch"
    fix = "keras.optimizers.Adam(1e-4)  # a lower rate: units that died in a step do not come back"
    return Found(paths(found), evidence, fix)


@check(
    3,
    "gallery/pitfalls/plot_weight_decay_is_a_learning_rate",
    symptoms={"no better than without batch norm": "seldom"},
)
def gamma_vanishes(case):
    """γ has shrunk to nothing under weight decay, and with it what the norm passes on.

    Below a hundredth in more than a fifth of the channels, as many as `dead_channels` asks for: a
    channel comes out as β either way. Those that training needs keep a γ, so that the others can
    vanish and the accuracy fall with more than half of them alive. Only where weights decay;
    without decay a γ of 0 is a start that residual networks choose on purpose.
    """
    decays = getattr(case.optimizer, "weight_decay", None)
    if not decays and not any(getattr(n.layer, "gamma_regularizer", None) for n in case.norms):
        return None
    small = {
        norm: np.abs(np.asarray(norm.gamma)) < 0.01
        for norm in case.norms
        if norm.built and norm.gamma is not None
    }
    found = counted(small, above=MANY)
    if not found:
        return None
    number, channels = max(found.values())
    evidence = f"|γ| is below 0.01 in {number} of {channels} channels"
    fix = 'optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])'
    return Found(paths(found), evidence, fix)
