"""Question 1, whose statistics: in which order the examples come."""

import numpy as np

from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._channels import TINY
from bnref.doctor.checks._check import Found, Undecided, check, paths

TOO_FEW = "fewer than 4 batches of equal size, of 2 examples or more, were given"


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
    if case.alike is None:
        return Undecided(TOO_FEW)
    norm, values, times, chance = case.alike
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
    if case.alike is None:
        return Undecided(TOO_FEW)
    norm, values, times, chance = case.alike
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
