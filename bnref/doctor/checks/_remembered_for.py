"""Question 2, remembered how: for other weights, another momentum, another ε, other inputs."""

import numpy as np

from bnref.doctor._passes import pooled_of
from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._channels import TINY, deviation, ratio
from bnref.doctor.checks._check import Found, Undecided, check, paths
from bnref.doctor.checks._remembered import NEVER, RECOMPUTE
from bnref.doctor.checks._start import at_start


@check(
    2,
    "gallery/questions/plot_alpha_and_momentum",
    symptoms={
        "numbers differ from PyTorch": "usual",
        "fine-tuned model collapses": "sometimes",
        "validation jumps": "sometimes",
    },
)
def momentum_of_another_framework(case):
    """A momentum below 0.5: PyTorch's 0.1 means 0.9 here, where it weighs the old value."""
    low = [norm for norm in case.followers if norm.momentum < 0.5]
    if not low:
        return None
    momentum = low[0].momentum
    evidence = (
        f"momentum={momentum:g}: after each batch only {100 * momentum:.0f} % of the population "
        f"is kept, so that it is nearly the last batch"
    )
    fix = f"norm = keras.layers.BatchNormalization(momentum={1 - momentum:g})\n{RECOMPUTE}"
    return Found(paths(low), evidence, fix)


@check(
    2,
    "gallery/variants/plot_the_moving_average_lags_or_trembles",
    symptoms={"validation jumps": "sometimes"},
    unless=[
        *NEVER,
        "momentum_of_another_framework",
        "batches_not_shuffled",
        "one_kind_a_batch",
        "small_batches",
    ],
)
def trembling_average(case):
    """A momentum so low for batches so small that the population keeps the noise of the last ones.

    An exponential average keeps √((1 − ρ)/(1 + ρ)) of the noise of one batch's mean; 0.15 of a
    deviation is the noise of a single batch of 44 independent values.
    """
    found = {}
    for norm in case.followers:
        means = np.array([each.mean for each in case.training.of(norm)])
        if len(means) < 4 or not np.isfinite(norm.momentum):
            continue
        of_one_batch = means.std(0, ddof=1) / deviation(case.fresh[norm][1])
        noise = np.median(of_one_batch) * statistics.spread_of(norm.momentum)
        if noise > 0.15:
            found[norm] = noise
    if not found:
        return None
    norm, noise = max(found.items(), key=lambda item: item[1])
    evidence = (
        f"with momentum {norm.momentum:g} the population trembles by {noise:.2g} deviations from "
        "step to step"
    )
    fix = f"norm = keras.layers.BatchNormalization(momentum=0.99)\n{RECOMPUTE}"
    return Found(paths(found), evidence, fix)


@check(
    2,
    "gallery/pitfalls/plot_averaged_weights_need_their_own_statistics",
    symptoms={
        "the saved model predicts differently": "sometimes",
        "validation far worse than training": "seldom",
    },
    unless=NEVER,
)
def weights_averaged_without_statistics(case):
    """The weights are averages of many steps', the population is that of the last steps'."""
    averaged = getattr(case.optimizer, "use_ema", False)
    if not averaged or not case.followers:
        return None
    harm = statistics.harm(case)
    if not harm.harmed:
        return None
    evidence = f"the optimizer averages the weights (use_ema=True), and {harm.words}"
    return Found(paths(case.followers), evidence, RECOMPUTE)


@check(
    2,
    "gallery/pitfalls/plot_dropout_before_batch_norm",
    symptoms={"validation far worse than training": "sometimes"},
)
def dropout_before(case):
    """Dropout before a norm: the variance that it remembers is larger than at inference.

    The same batches in training mode with and without dropout and noise; a variance that is a
    fifth larger in most channels makes every output smaller by a tenth.
    """
    few = case.undropped
    if few is None:
        return None
    found = {}
    for norm in case.followers:
        with_, without = (
            np.mean([each.variance for each in calls.of(norm)[: len(few.of(norm))]], 0)
            for calls in (case.training, few)
        )
        larger = float(np.median(ratio(with_, without)))
        if larger > 1.2:
            found[norm] = larger
    if not found:
        return None
    evidence = (
        f"in training the variance is {max(found.values()):.2f} times what it is without dropout, "
        "which is off at inference"
    )
    fix = (
        "bnref.population.recompute(model, batches, dropout=False)  # for a trained model; or\n"
        "x = keras.layers.BatchNormalization()(x)  # the norm first,\n"
        "x = keras.layers.Dropout(0.5)(x)          # dropout behind it"
    )
    return Found(paths(found), evidence, fix)


# The most usual first.
FRAMEWORKS = {1e-3: "Keras", 1e-5: "PyTorch and Flax", 1e-4: "Lasagne", 1e-6: "some JAX code"}


@check(
    2,
    "gallery/pitfalls/plot_numbers_differ_after_a_port",
    symptoms={"numbers differ from PyTorch": "usual"},
    unless=NEVER,
)
def epsilon_of_another_framework(case):
    """The weights were trained with another ε than the layers have.

    Only looked for where it matters: a variance below a hundred times ε. How large the inputs of a
    later norm are depends on the ε before it, and its population remembers how large they were in
    training. Each framework's ε is tried in training mode: where the later variances are off by a
    fifth with the layers' own, and by less than a tenth with another, that one is the weights'
    own; of those that fit as well, to a twentieth, the most usual. The loss would accuse healthy
    models: one that was trained briefly gains by any smaller ε.
    """
    small = [n for n in case.served if np.median(n.variance) < 100 * n.epsilon]
    if not small:
        return None
    own = small[0].epsilon
    variances = {each: _variances(case, small, each) for each in (own, *FRAMEWORKS)}
    later = [norm for norm in case.followers if not at_start(norm) and _depends(norm, variances)]
    channels, factor = _scaled(small, own)
    words = (
        f"epsilon is {own:g}, where a variance is {np.median(small[0].variance):.2g}: by another "
        f"framework's, {channels} channels would be scaled otherwise, up to {factor:.2g} times"
    )
    if not later:
        return Undecided(f"{words}, and no later norm remembers which it was") if channels else None
    off = {each: _off(later, found) for each, found in variances.items()}
    if not (off[own] > 0.2 and min(off.values()) < 0.1):
        return None
    best = most_usual(off)
    evidence = (
        f"{words}; the variances that later norms remember are {np.exp(off[own]):.2g} times off "
        f"with it, and {np.exp(off[best]):.2g} times with {best:g}, {FRAMEWORKS[best]}'s"
    )
    return Found(
        paths(small), evidence, f"norm = keras.layers.BatchNormalization(epsilon={best:g})"
    )


def most_usual(off):
    """Of the frameworks' ε that fit as well as any, to a twentieth, the most usual."""
    least = min(off.values())
    return next(each for each in FRAMEWORKS if off[each] <= least + 0.05)


def _variances(case, changed, epsilon):
    """The variance of each norm's inputs in training mode, if some norms had another ε."""
    seen = case.with_epsilon(changed, epsilon)
    return {norm: pooled_of(seen.of(norm))[1] for norm in case.followers}


def _depends(norm, variances):
    """Whether the variance of a norm's inputs depends on the ε of others, by a tenth or more."""
    logs = np.log([each[norm] + TINY for each in variances.values()])
    return np.median(np.ptp(logs, axis=0)) > 0.1


def _off(norms, variances):
    """By what factor remembered variances differ from these, as a logarithm: the median."""
    return float(
        np.median([np.median(np.abs(np.log(ratio(n.variance, variances[n])))) for n in norms])
    )


def _scaled(norms, own):
    """How many channels another framework's ε would scale by a tenth or more, and by how much.

    By √((σ² + ε)/(σ² + ε')), with γ as it is.
    """
    variance = np.concatenate([np.float64(norm.variance) for norm in norms])
    factors = np.sqrt([(variance + own) / (variance + each) for each in FRAMEWORKS])
    largest = np.exp(np.abs(np.log(factors))).max(0)
    return int((largest > 1.1).sum()), float(largest.max())
