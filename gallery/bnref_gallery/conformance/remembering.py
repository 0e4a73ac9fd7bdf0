"""What is asked of the memory: what momentum weighs, where it starts, what is kept and saved."""

import numpy as np

from bnref_gallery.conformance.asking import (
    ABSENT,
    AGREES,
    DIFFERS,
    REFUSALS,
    WRONG,
    Cell,
    Implementation,
    Step,
)
from bnref_gallery.conformance.formula import far, joined, moments, normalized, size, spread

__all__ = ["first_step", "momentum", "saved", "variance_kept"]

BATCH = np.random.default_rng(1).normal([3, -1, 7], [2, 1, 5], (8, 1, 1, 3)).astype("f4")
# Eight channels of as many means and variances: a line through them tells a weight from a start.
MEANS, DEVIATIONS = np.linspace(-4, 6, 8), np.linspace(1, 4, 8)
SPREAD_OUT = np.random.default_rng(4).normal(MEANS, DEVIATIONS, (8, 1, 1, 8)).astype("f4")
CLOSE = 1e-3


def momentum(implementation: Implementation) -> Cell:
    """Which value does the argument weigh, the old or the new, and how much by default?

    One batch is trained on, from a mean of 0: what is remembered over the batch's mean is the
    weight of the new batch. Once with the argument at 0.75, once without it.

    The paper names no argument (its section 3.1 speaks of moving averages). The formula is that of
    this site, P ← ρP + (1 − ρ)B, where the argument ρ weighs the **old** value. An argument that
    weighs the new one differs by design; any other weight is wrong.
    """
    name = implementation.momentum

    def weight(options):
        step = Step(spread(implementation, BATCH), options)
        ratio = implementation.run(step).mean / moments(BATCH)[0]
        return ratio[0] if np.ptp(ratio) < CLOSE else np.nan

    asked, default = weight({name: 0.75}), weight({})
    sides = {"old": 0.25, "new": 0.75}
    side = next((side for side, w in sides.items() if abs(w - asked) < CLOSE), "?")
    shown = 1 - default if side == "old" else default
    details = f"{name}=0.75 gives the new batch the weight {asked:.3g}, the default {default:.3g}"
    verdict = {"old": AGREES, "new": DIFFERS}.get(side, WRONG)
    return Cell(verdict, f"weighs the {side}; {shown:.3g}", details)


def first_step(implementation: Implementation) -> Cell:
    """From what does the average start, and how much of that is left after the first batch?

    A new layer is trained on one batch, once with a weight of 0.25 and once with the default. What
    is remembered is a line in what the batch has, channel by channel: its slope is the weight that
    the first batch got, and where it begins is the share of the start.

    The paper trains on many batches and does not speak of a start. As the formula is here
    P ← ρP + (1 − ρ)B from the first batch on, and the start is a mean of 0 and a variance of 1: a
    layer that has not learned does nothing. Its share is ρᵗ after t batches. Differs by design:
    another start, or a first batch that is taken whole, as where the average is divided by 1 − ρᵗ.
    Wrong: another weight, or no line. Not offered: the averages are the caller's.
    """
    if not implementation.saves:
        return Cell(ABSENT, "no memory", "the averages are the caller's variables")
    (weight, straight), start = started(implementation, 0.25)
    (default, _), _ = started(implementation, None)
    whole = abs(weight - 1) < CLOSE
    value = f"from {' and '.join(map(plain, start))}; {1 - default:.0%} of it left"
    value = "the first batch, whole" if whole else value
    details = f"at 0.25 the first batch has the weight {weight:.3g}, by default {default:.3g}"
    if not straight or not (whole or abs(weight - 0.25) < CLOSE):
        return Cell(WRONG, f"the weight {weight:.3g} for 0.25", details)
    usual = not whole and np.abs(np.subtract(start, (0, 1))).max() < CLOSE
    return Cell(AGREES if usual else DIFFERS, value, details)


def plain(figure):
    """To two decimals, without a sign before 0."""
    return f"{round(figure, 2) + 0.0:g}"


def started(implementation, new):
    """The weight of the first batch and whether it is one; the mean and the variance before it."""
    outcome = implementation.run(Step(spread(implementation, SPREAD_OUT), new=new))
    lines = []
    for kept, batch in zip((outcome.mean, outcome.variance), moments(SPREAD_OUT), strict=True):
        kept = np.asarray(kept, np.float64)
        (slope, begins), (rest, *_), *_ = np.polyfit(batch, kept, 1, full=True)
        lines.append((slope, begins, rest < 1e-6 * len(batch)))
    (weight, mean, _), (slope, variance, _) = lines
    # The variance's slope is this weight too, or n/(n − 1) times it: see "variance remembered".
    same = min(abs(slope / weight / share - 1) for share in (1, 8 / 7)) < CLOSE
    left = 1 - weight if abs(1 - weight) > CLOSE else np.nan
    return (weight, same and all(line[2] for line in lines)), (mean / left, variance / left)


def variance_kept(implementation: Implementation) -> Cell:
    """Is the variance that is remembered the biased one, or times n/(n − 1)?

    One batch of 8 values a channel is trained on, so that n/(n − 1) is 1.143: as images of one
    pixel, and as vectors where those are accepted. What is remembered, less the share of the start,
    is divided by the biased variance of the batch.

    The paper remembers n/(n − 1) times the biased variance (Algorithm 2, step 10): that is as the
    formula. The biased one differs by design, and so does a choice that depends on the shape. Any
    other ratio is wrong. What normalizes in training is the biased one everywhere: see epsilon.
    """
    found = {"images": ratio_kept(implementation, BATCH)}
    try:
        found["vectors"] = ratio_kept(implementation, BATCH[:, 0, 0])
    except REFUSALS:
        found["vectors"] = None  # only images are accepted
    names = {name: kind(ratio) for name, ratio in found.items() if ratio is not None}
    details = ", ".join(f"{name} {found[name]:.4f} ({word})" for name, word in names.items())
    words = list(dict.fromkeys(names.values()))
    value = words[0] if len(words) == 1 else "; ".join(f"{n}: {w}" for n, w in names.items())
    verdict = AGREES if words == ["times n/(n − 1)"] else DIFFERS
    return Cell(WRONG if "neither" in words else verdict, value, f"over the biased: {details}")


def ratio_kept(implementation, x):
    """The remembered variance over the biased one."""
    outcome = implementation.run(Step(spread(implementation, x), new=0.5))
    return np.mean((np.asarray(outcome.variance) - 0.5) / 0.5 / moments(x)[1])


def kind(ratio):
    """What a ratio is, for 8 values."""
    known = {"biased": 1, "times n/(n − 1)": 8 / 7}
    return next(
        (name for name, value in known.items() if abs(ratio / value - 1) < CLOSE), "neither"
    )


def saved(implementation: Implementation) -> Cell:
    """What is saved after replicas that saw different data?

    Two replicas see one batch each, of means some σ apart, at a weight of 0.5. The model is saved
    by its library's own means, and read without replicas. What is read is compared with what one
    replica alone, the mean of both and the global batch would leave; and inference on each replica
    with inference by what was saved.

    As the formula: the mean and the variance of the global batch, biased or corrected. Differs by
    design: anything else that all replicas evaluate by too, and a state for each replica from which
    the program chooses. Wrong: a replica evaluates by other statistics than those that are saved.
    Not offered: nothing is remembered, or nothing runs on two replicas.
    """
    if not implementation.saves:
        return Cell(ABSENT, "no memory", "the averages are the caller's variables")
    parts = [BATCH, 0.5 * BATCH[::-1] + 6]
    step = Step(parts, new=0.5, epsilon=1e-3, then=BATCH)
    outcome = implementation.run(step)
    mean, variance = np.array(outcome.mean), np.array(outcome.variance)
    if mean.ndim == 2:
        details = f"the state has the shape {mean.shape}, one row a replica, and rows differ"
        return Cell(DIFFERS, "a state a replica", details)
    name = whose((mean, variance), parts)
    by_saved = normalized(BATCH, mean, variance, 1e-3)
    apart = [far(each, by_saved) for each in outcome.evaluated]
    by_it = sum(distance < CLOSE for distance in apart)
    details = f"inference by it and on the replicas differs by {size(max(apart))} at most"
    if by_it < 2:
        return Cell(WRONG, f"{name}; {by_it} of 2 evaluate by it", details)
    return Cell(AGREES if name == "the global batch's" else DIFFERS, name, details)


def candidates(parts):
    """Names, and what would be remembered, with and without n/(n − 1)."""
    both = joined(parts)
    for corrected in (True, False):
        pairs = [(m, v * (8 / 7 if corrected else 1)) for m, v in map(moments, parts)]
        mean, variance = moments(both)
        variance = variance * (16 / 15 if corrected else 1)
        yield "the global batch's", half_way([(mean, variance)])
        yield "the first replica's", half_way(pairs[:1])
        yield "the mean of the replicas'", half_way([np.mean(pairs, 0)])
        yield "one average, updated by both", half_way(pairs)
        yield "one average, updated by both", half_way(pairs[::-1])
        yield "one average, updated by both", tuple(np.sum(pairs, 0) / 2)


def half_way(pairs):
    """What is remembered of one (mean, variance) after the other, each at a weight of 0.5."""
    state = np.zeros(3), np.ones(3)
    for pair in pairs:
        state = tuple(0.5 * old + 0.5 * new for old, new in zip(state, pair, strict=True))
    return state


def whose(found, parts):
    """The name of what was remembered; mean and variance may have been updated in another order."""
    names = [
        {name for name, wanted in candidates(parts) if far(value, wanted[index]) < CLOSE}
        for index, value in enumerate(found)
    ]
    return next(iter(sorted(set.intersection(*names))), "neither")
