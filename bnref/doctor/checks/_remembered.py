"""Question 2, remembered how: a population that is not that of the data under these weights."""

import numpy as np

from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._check import Found, Undecided, check, paths

RECOMPUTE = "bnref.population.recompute(model, batches)  # shuffled training batches, 8 or more"
NEVER = ["training_never_passed", "never_updated"]


@check(2, "gallery/pitfalls/plot_towers_that_update_one_average")
def impossible_population(case):
    """The population has a variance that is negative or not finite, or a mean that is not."""
    bad = {}
    for norm in case.norms:
        if norm.built:
            mean, variance = np.asarray(norm.mean), np.asarray(norm.variance)
            wrong = ~(np.isfinite(mean) & np.isfinite(variance) & (variance >= 0))
            if wrong.any():
                bad[norm] = wrong.sum(), variance[wrong][0]
    if not bad:
        return None
    count, value = next(iter(bad.values()))
    evidence = f"{count} channels of the first have a variance such as {value:.3g}"
    return Found(paths(bad), evidence, RECOMPUTE)


def _at_start(norm):
    """Whether the population is what a new layer has: 0 and 1, to the bit."""
    return bool(np.all(np.asarray(norm.mean) == 0) and np.all(np.asarray(norm.variance) == 1))


@check(2, "gallery/pitfalls/plot_training_was_never_told", unless=["training_never_passed"])
def never_updated(case):
    """The population was never updated: mean 0 and variance 1, to the bit."""
    fresh = [norm for norm in case.norms if norm.fixed and case.in_use(norm) and _at_start(norm)]
    if not fresh:
        return None
    if case.steps is None and all(map(_untrained, case.norms)):
        return Undecided("the model has not been trained: γ is 1 and β is 0 as well")
    shift = np.median(np.abs(statistics.departure(case, fresh[0]).shift))
    after = f" after {case.steps} steps" if case.steps else ""
    evidence = (
        f"moving_mean is 0 and moving_variance 1 in every channel{after}, where the batches have "
        f"a mean {shift:.2g} deviations away"
    )
    fix = f"y = model(x, training=True)  # in the training step\n{RECOMPUTE}"
    return Found(paths(fresh), evidence, fix)


def _untrained(norm):
    """Whether γ and β, too, are what a new layer has."""
    gamma, beta = (np.asarray(0 if each is None else each) for each in (norm.gamma, norm.beta))
    return bool(np.all((gamma == 1) | (gamma == 0)) and np.all(beta == 0))


def _left_of_start(case, norm):
    """The share of a new layer's 0 and 1 that is left in the population, and whether it fits.

    With ρᵗ left, mean = (1 − ρᵗ) μ in all channels alike: the slope of a line through 0.
    """
    mean, _ = case.fresh[norm]
    stored = np.float64(norm.mean)
    if not np.dot(mean, mean) > 0:
        return 0.0, False
    slope = np.dot(mean, stored) / np.dot(mean, mean)
    rest = np.linalg.norm(stored - slope * mean) / (np.linalg.norm(stored) + 1e-30)
    return float(np.clip(1 - slope, 0, 1)), bool(rest < 0.3)


@check(2, "gallery/pitfalls/plot_few_batches_leave_the_old_statistics", unless=NEVER)
def few_steps(case):
    """Few steps at a high momentum: the population is still partly what it started with.

    After t steps ρᵗ of the start is left. It matters where it moves the mean by a tenth of a
    deviation or the variance by a fifth, and where the model loses by it.
    """
    found = {}
    for norm in case.followers:
        if _at_start(norm):
            continue
        departure = statistics.departure(case, norm)
        if case.steps:
            left = norm.momentum**case.steps
        else:
            left, fits = _left_of_start(case, norm)
            left = left if fits and np.median(np.abs(departure.z)) > 3 else 0
        shift = np.median(np.abs(departure.shift))
        if left > 0.05 and (shift > 0.1 or abs(np.log(np.median(departure.ratio))) > 0.2):
            found[norm] = left, shift
    harm = statistics.harm(case)
    if not found or not harm.harmed:
        return None
    left, shift = max(found.values())
    after = f"after {case.steps} steps" if case.steps else "by the population itself"
    evidence = (
        f"{after}, {100 * left:.0f} % of the start is left in the population, which is "
        f"{shift:.2g} deviations off; {harm.words}"
    )
    fix = f"{RECOMPUTE}\n# or, before training:\nnorm = keras.layers.BatchNormalization(momentum=0.9)"
    return Found(paths(found), evidence, fix)


@check(2, "gallery/questions/plot_alpha_and_momentum")
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


@check(2, "gallery/variants/plot_the_moving_average_lags_or_trembles",
       unless=[*NEVER, "momentum_of_another_framework", "batches_not_shuffled", "one_kind_a_batch",
               "small_batches"])  # fmt: skip
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
        deviation = np.sqrt(case.fresh[norm][1] + 1e-12)
        noise = np.median(means.std(0, ddof=1) / deviation) * statistics.spread_of(norm.momentum)
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


@check(2, "gallery/pitfalls/plot_half_precision_overflows_and_stands_still")
def half_precision_population(case):
    """The population is kept in half precision, where a step is less than its last digit."""
    half = {n: str(n.variance.dtype) for n in case.norms if n.built and "16" in str(n.variance.dtype)}
    if not half:
        return None
    name = next(iter(half.values()))
    digits = 2**-8 if "bfloat16" in name else 2**-11
    norm = next(iter(half))
    evidence = (
        f"moving_variance is {name}: a step of {1 - norm.momentum:.2g} times a difference is lost "
        f"below {digits:.1g} of the value"
    )
    fix = 'keras.mixed_precision.set_global_policy("mixed_float16")  # float32 variables, not float16'
    return Found(paths(half), evidence, fix)


@check(2, "gallery/pitfalls/plot_averaged_weights_need_their_own_statistics", unless=NEVER)
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


@check(2, "gallery/pitfalls/plot_dropout_before_batch_norm")
def dropout_before(case):
    """Dropout before a norm: the variance that it remembers is larger than at inference.

    The same batches in training mode with and without dropout and noise; a variance that is a
    fifth larger in most channels makes every output smaller by a tenth.
    """
    if case.undropped is None:
        return None
    found = {}
    for norm in case.followers:
        with_, without = (
            np.mean([each.variance for each in calls.of(norm)], 0)
            for calls in (case.training, case.undropped)
        )
        ratio = float(np.median((with_ + 1e-12) / (without + 1e-12)))
        if ratio > 1.2:
            found[norm] = ratio
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


OTHER_CAUSES = [
    *NEVER, "few_steps", "weights_averaged_without_statistics", "dropout_before",
    "impossible_population", "shared_by_branches", "half_precision_population",
    "momentum_of_another_framework", "trembling_average", "epsilon_of_another_framework",
    "training_at_inference",
]  # fmt: skip


@check(2, "gallery/variants/plot_precise_batch_norm_needs_few_batches", unless=OTHER_CAUSES)
def stale_population(case):
    """The population is not that of these data under these weights, and the model loses by it.

    The stored mean must be more than 3 standard errors off in most channels of a norm, and the loss
    at inference higher by a tenth and by 0.02 than with the statistics of these batches.
    """
    if not case.followers and not case.norms:
        return None
    apart = {}
    for norm in case.fresh:
        departure = statistics.departure(case, norm)
        z = np.abs(departure.z[np.isfinite(departure.z)])
        if z.size and np.median(z) > 3 and norm.fixed:
            apart[norm] = np.median(np.abs(departure.shift))
    harm = statistics.harm(case)
    if not apart or not harm.harmed:
        return None
    evidence = f"its mean is {max(apart.values()):.2g} deviations off; {harm.words}"
    return Found(paths(apart), evidence, RECOMPUTE)


FRAMEWORKS = {1e-3: "Keras", 1e-5: "PyTorch and Flax", 1e-4: "Lasagne", 1e-6: "some JAX code"}


@check(2, "gallery/pitfalls/plot_numbers_differ_after_a_port", unless=NEVER)
def epsilon_of_another_framework(case):
    """The weights were trained with another ε than the layers have.

    Only looked for where it matters: a variance below a hundred times ε. Each framework's ε is
    tried at inference; one by which the loss falls by a tenth and by 0.02 is the weights' own.
    """
    small = [
        norm
        for norm in case.norms
        if norm.fixed and case.in_use(norm) and np.median(norm.variance) < 100 * norm.epsilon
    ]
    if not small:
        return None
    if case.inference.loss is None:
        return Undecided("there are no targets")
    losses = {each: case.loss_with_epsilon(small, each) for each in FRAMEWORKS}
    best = min(losses, key=losses.get)
    here = case.inference.loss
    if best == small[0].epsilon or not here - losses[best] > 0.1 * losses[best] + 0.02:
        return None
    evidence = (
        f"epsilon is {small[0].epsilon:g}, as large as variances of {np.median(small[0].variance):.2g}"
        f"; with {best:g}, {FRAMEWORKS[best]}'s, the loss at inference is {losses[best]:.3g}, "
        f"not {here:.3g}"
    )
    return Found(paths(small), evidence, f"norm = keras.layers.BatchNormalization(epsilon={best:g})")
