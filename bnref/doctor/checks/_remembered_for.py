"""Question 2, remembered how: for other weights, by another momentum, of other inputs."""

import numpy as np

from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._channels import deviation, ratio
from bnref.doctor.checks._check import Found, check, paths
from bnref.doctor.checks._remembered import NEVER, RECOMPUTE


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
