"""Question 2, remembered how: a population that is not that of the data and the weights."""

import numpy as np

from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._channels import counted, deviation
from bnref.doctor.checks._check import Found, Undecided, check, paths
from bnref.doctor.checks._start import at_start, left_of_start, untrained

RECOMPUTE = "bnref.population.recompute(model, batches)  # shuffled training batches, 8 or more"
NEVER = ["training_never_passed", "never_updated"]


@check(
    2,
    "gallery/pitfalls/plot_towers_that_update_one_average",
    symptoms={"NaN or infinity": "seldom"},
)
def impossible_population(case):
    """The population has a variance that is negative or not finite, or a mean that is not."""
    wrong = {}
    for norm in case.norms:
        if norm.built:
            mean, variance = np.asarray(norm.mean), np.asarray(norm.variance)
            wrong[norm] = ~(np.isfinite(mean) & np.isfinite(variance) & (variance >= 0))
    bad = counted(wrong)
    if not bad:
        return None
    norm, (count, _) = next(iter(bad.items()))
    mean, variance = (np.asarray(each)[wrong[norm]][0] for each in (norm.mean, norm.variance))
    evidence = (
        f"of the first, {statistics.many(count, 'channel')}: mean {mean:.3g}, variance "
        f"{variance:.3g}"
    )
    return Found(paths(bad), evidence, RECOMPUTE)


@check(
    2,
    "gallery/pitfalls/plot_training_was_never_told",
    symptoms={
        "statistics never change": "usual",
        "the saved model predicts differently": "often",
        "test accuracy near chance": "often",
    },
    unless=["training_never_passed"],
)
def never_updated(case):
    """The population was never updated: mean 0 and variance 1, to the bit."""
    fresh = [norm for norm in case.served if at_start(norm)]
    if not fresh:
        return None
    if case.steps is None and all(map(untrained, case.norms)):
        return Undecided("the model has not been trained: γ is 1 and β is 0 as well")
    shift = np.median(np.abs(statistics.departure(case, fresh[0]).shift))
    after = f" after {case.steps} steps" if case.steps else ""
    evidence = (
        f"moving_mean is 0 and moving_variance 1 in every channel{after}, where the batches have "
        f"a mean {shift:.2g} deviations away"
    )
    fix = f"y = model(x, training=True)  # in the training step\n{RECOMPUTE}"
    return Found(paths(fresh), evidence, fix)


@check(
    2,
    "gallery/pitfalls/plot_few_batches_leave_the_old_statistics",
    symptoms={"validation far worse than training": "usual", "fine-tuned model collapses": "often"},
    unless=[*NEVER, "variance_overflows"],
)
def few_steps(case):
    """Few steps at a high momentum: the population is still partly what it started with.

    After t steps ρᵗ of the start is left. It matters where more than a twentieth is, or so much
    that a start of 0 pulls the mean by a tenth of a deviation, as 0.5 % does where the inputs are
    seconds since 1970; where the population is off by as much, or its variance by a fifth; and
    where the model loses by it.
    """
    found = {}
    by_itself = 0.0 if case.steps else left_of_start(case)
    for norm in case.followers:
        if at_start(norm):
            continue
        departure = statistics.departure(case, norm)
        left = norm.momentum**case.steps if case.steps else by_itself
        shift = np.median(np.abs(departure.shift))
        mean, variance = case.fresh[norm]
        pull = left * np.median(np.abs(mean) / deviation(variance))
        far = shift > 0.1 or abs(np.log(np.median(departure.ratio))) > 0.2
        if far and (left > 0.05 or pull > 0.1):
            found[norm] = left, shift
    harm = statistics.harm(case)
    if not found or not harm.harmed:
        return None
    left, shift = max(found.values())
    after = f"after {case.steps} steps" if case.steps else "by the population itself"
    evidence = (
        f"{after}, {100 * left:.2g} % of the start is left in the population, which is "
        f"{shift:.2g} deviations off; {harm.words}"
    )
    fix = (
        f"{RECOMPUTE}\n# or, before training:\nnorm = keras.layers.BatchNormalization(momentum=0.9)"
    )
    return Found(paths(found), evidence, fix)


@check(
    2,
    "gallery/pitfalls/plot_half_precision_overflows_and_stands_still",
    symptoms={"statistics never change": "seldom"},
)
def half_precision_population(case):
    """The population is kept in half precision, where a step is less than its last digit."""
    half = {
        n: str(n.variance.dtype) for n in case.norms if n.built and "16" in str(n.variance.dtype)
    }
    if not half:
        return None
    name = next(iter(half.values()))
    digits = 2**-8 if "bfloat16" in name else 2**-11
    norm = next(iter(half))
    evidence = (
        f"moving_variance is {name}: a step of {1 - norm.momentum:.2g} times a difference is lost "
        f"below {digits:.1g} of the value"
    )
    fix = (
        'keras.mixed_precision.set_global_policy("mixed_float16")  # float32 variables, not float16'
    )
    return Found(paths(half), evidence, fix)


OTHER_CAUSES = [
    *NEVER, "variance_overflows", "few_steps", "weights_averaged_without_statistics",
    "dropout_before", "impossible_population", "shared_by_branches", "half_precision_population",
    "momentum_of_another_framework", "trembling_average", "epsilon_of_another_framework",
    "training_at_inference",
    # Outputs that are nearly constant are moved by their whole deviation by hardly anything.
    "gamma_vanishes",
]  # fmt: skip


@check(
    2,
    "gallery/variants/plot_precise_batch_norm_needs_few_batches",
    symptoms={
        "validation far worse than training": "sometimes",
        "test accuracy near chance": "seldom",
    },
    unless=OTHER_CAUSES,
)
def stale_population(case):
    """The population is not that of these data under these weights, and the model loses by it.

    The stored mean must be more than 3 standard errors off in most channels of a norm, and the loss
    at inference higher by a tenth and by 0.02 than with the statistics of these batches.
    """
    apart = {}
    for norm in case.served:
        if at_start(norm):
            continue  # `never_updated` says it, or that the model is not trained
        departure = statistics.departure(case, norm)
        z = np.abs(departure.z[np.isfinite(departure.z)])
        if z.size and np.median(z) > 3:
            apart[norm] = np.median(np.abs(departure.shift))
    harm = statistics.harm(case)
    if not apart or not harm.harmed:
        return None
    evidence = f"its mean is {max(apart.values()):.2g} deviations off; {harm.words}"
    return Found(paths(apart), evidence, RECOMPUTE)
