"""Question 1, whose statistics: what is wrong with the examples of a batch."""

import numpy as np

from bnref.doctor._passes import pooled_of
from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._channels import TINY, deviation, ratio
from bnref.doctor.checks._check import Found, Undecided, check, paths

TOO_FEW = "fewer than 4 batches of equal size, of 2 examples or more, were given"


def _alike(case):
    """The norm whose batches are most alike, its values, the ratio, and what chance gives."""
    best = None
    for norm in case.norms:
        calls = case.inference.of(norm)
        values = statistics.examples(calls) if len(calls) == len(case.batches) else None
        if values is None or len(values) < 4 or values.shape[1] < 2:
            continue
        alike = statistics.alikeness(values)
        if best is None or alike > best[2]:
            best = norm, values, alike
    return best and (*best, statistics.by_chance(best[1]))


def _runs(values, alike, chance):
    """Two groups of batches by their means, and how often one follows the other; None if not two.

    Of all cuts along the first principal component of the batch means that which leaves the least;
    two groups explain the batches where nine tenths of the variance between them is gone, or all
    but what chance gives.
    """
    means = values.mean(1) / (values.std((0, 1)) + TINY)
    means = means - means.mean(0)
    line = means @ np.linalg.svd(means, full_matrices=False)[2][0]
    order = np.argsort(line)

    def left_by(cut):
        return sum(np.square(part - part.mean(0)).sum() for part in np.split(means[order], [cut]))

    cut = min(range(2, len(line) - 1), key=left_by)
    left = left_by(cut) / np.square(means).sum()
    if left > 0.1 and left * alike * (len(line) - 1) / (len(line) - 2) > chance:
        return None
    groups = np.zeros(len(line), int)
    groups[order[cut:]] = 1
    return 1 + int(np.sum(np.diff(groups) != 0))


@check(
    1,
    "gallery/variants/plot_two_domains_in_one_batch",
    symptoms={"test accuracy near chance": "often"},
)
def one_kind_a_batch(case):
    """Each batch holds one of two kinds of data, and the population is a mean over the kinds.

    Two groups of batches that follow one another in turn and explain how the batches differ: the F
    ratio as for `batches_not_shuffled`, and within the groups no more than chance gives.
    """
    alike = _alike(case)
    if alike is None:
        return Undecided(TOO_FEW)
    norm, values, times, chance = alike
    runs = _runs(values, times, chance)
    if times < 2 * chance or runs is None or runs < 4:
        return None
    evidence = (
        f"the batches fall into two groups, which follow one another {runs - 1} times in "
        f"{len(values)} batches; their means vary {times:.0f} times as much as those of random "
        f"batches (by chance at most {chance:.2g})"
    )
    fix = (
        "# a population for each kind, chosen by the example's domain\n"
        "y = bnref.layers.DomainBatchNorm(domains=2)(x, domain=domain)\n"
        "# or both kinds in every batch\n"
        "dataset = tf.data.Dataset.sample_from_datasets([first, second]).batch(32)"
    )
    return Found(paths([norm]), evidence, fix)


@check(
    1,
    "gallery/questions/plot_noisy_validation",
    symptoms={
        "validation jumps": "usual",
        "validation far worse than training": "often",
        "worse with small batches": "sometimes",
        "test accuracy near chance": "sometimes",
    },
    unless=["one_kind_a_batch"],
)
def batches_not_shuffled(case):
    """The examples of a batch are alike, so that its statistics are those of a few.

    The F ratio of the examples' means, between the batches over within them: 1 for random batches.
    It must be above twice what 99 random regroupings of the same examples give at most, which holds
    for any distribution, and above 3: the batch is worth less than a third of its examples then.
    """
    alike = _alike(case)
    if alike is None:
        return Undecided(TOO_FEW)
    norm, values, times, chance = alike
    if times < max(3, 2 * chance):
        return None
    worth = max(1, round(values.shape[1] / times))
    evidence = (
        f"the means of batches vary {statistics.number(times)} times as much as those of random "
        f"batches (by chance at most {chance:.2g}): {values.shape[1]} examples are worth {worth}"
    )
    fix = (
        "dataset = dataset.shuffle(len(x)).batch(32)  # before batch, with room for all examples\n"
        "model.fit(dataset)  # or, where batches are only somewhat alike, without training anew:\n"
        "bnref.population.recompute(model, dataset)"
    )
    return Found(paths([norm]), evidence, fix)


@check(
    1,
    "gallery/variants/plot_normalizing_single_examples",
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
