"""Question 1, whose statistics: what is wrong with the examples of a batch."""

import numpy as np

from bnref.doctor._passes import pooled_of
from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._channels import deviation, ratio
from bnref.doctor.checks._check import Found, Undecided, check, paths


@check(
    1,
    "gallery/pitfalls/plot_one_unscaled_example_spoils_its_channels",
    symptoms={"validation jumps": "seldom"},
    unless=["one_kind_a_batch"],
)
def one_example_rules(case):
    """One example, or a few, make up most of a batch's variance: an outlier, or unscaled inputs.

    The same example has more than half of the sum of squares in most channels of a batch of 8 or
    more, and more than a hundred times what is usual, ten deviations: another kind, not a tail.
    """
    first = case.inference.firsts
    if not first or len(first[0].means) < 8:
        return Undecided("batches of fewer than 8 examples were given")
    squares = [c.counts[:, None] * (c.variances + (c.means - c.mean) ** 2) for c in first]
    usual = np.median(np.concatenate(squares), axis=0)
    worst = (0.0, None)
    for seen, each in zip(first, squares, strict=True):
        share = np.median(each / (each.sum(0) + 1e-30), axis=1)
        most = int(np.argmax(share))
        if share[most] > worst[0] and np.median(each[most] > 100 * usual) == 1:
            worst = float(share[most]), seen
    share, seen = worst
    if seen is None or share < 0.5:
        return None
    evidence = (
        f"in one batch of {len(seen.means)} a single example has {100 * share:.0f} % of the sum of "
        f"squares in half of the channels, where {100 / len(seen.means):.0f} % would be its part"
    )
    fix = (
        "x = (x - x.mean(axis=0)) / x.std(axis=0)  # scale each source by its own statistics, or\n"
        "x = np.clip(x, *np.quantile(x, [0.001, 0.999]))  # cut outliers off"
    )
    return Found(paths([seen.norm]), evidence, fix)


@check(
    1,
    "gallery/pitfalls/plot_the_batch_gives_the_answer_away",
    symptoms={"test accuracy near chance": "seldom", "predictions depend on the batch": "seldom"},
    unless=["one_kind_a_batch", "batches_not_shuffled", "shared_by_branches"],
)
def batch_gives_the_answer(case):
    """The model has learnt to read the batch's statistics: its examples belong together.

    The same examples, regrouped at random, in training mode: a loss that rises by a tenth and by
    0.02, and by three standard errors of the batches' losses, depends on the company, not on the
    example.
    """
    regrouped = case.regrouped
    if regrouped is None:
        return Undecided("there are no targets, or fewer than 4 batches of equal size")
    before, after = case.training.loss, regrouped.loss
    losses = case.training.losses, regrouped.losses
    error = np.sqrt(sum(np.var(each, ddof=1) / len(each) for each in losses))
    if not (statistics.higher(after, before) and after - before > 3 * error):
        return None
    evidence = (
        f"in training mode the loss is {before:.3g} in the given batches, and {after:.3g} when the "
        "same examples are regrouped at random"
    )
    fix = (
        "dataset = dataset.unbatch().shuffle(10_000).batch(32)  # break the groups up, or\n"
        "norm = keras.layers.LayerNormalization()  # or statistics of one example"
    )
    return Found(paths(case.followers), evidence, fix)


@check(
    1,
    "gallery/variants/plot_normalizing_single_examples",
    symptoms={
        "test accuracy near chance": "sometimes",
        "validation far worse than training": "sometimes",
    },
)
def validation_of_another_kind(case):
    """The validation inputs are of another brightness or scale than those that were trained on.

    Judged at the first norm: a mean that is off by more than half a deviation, or a variance that
    is more than twice or less than half, in most channels, while training batches are not.
    """
    if case.validated is None:
        return Undecided("no validation data were given")
    calls, ours = case.validated.firsts, case.inference.firsts
    if not calls or not ours:
        return None
    (mean, variance), (there, spread) = pooled_of(ours), pooled_of(calls)
    shift = np.median(np.abs(there - mean) / deviation(variance))
    times = np.median(ratio(spread, variance))
    if not (shift > 0.5 or times > 2 or times < 0.5):
        return None
    evidence = (
        f"where the first norm stands, the validation inputs have a mean that is "
        f"{shift:.2g} deviations away and {times:.2g} times the variance"
    )
    fix = (
        "# the same preprocessing for both; where the data do differ, their own statistics:\n"
        "bnref.population.recompute(model, validation_batches)"
    )
    return Found(paths([calls[0].norm]), evidence, fix)
