"""Question 2, remembered how: weights that were trained with another ε than the layers have."""

import numpy as np

from bnref.doctor._passes import pooled_of
from bnref.doctor.checks._channels import TINY, ratio
from bnref.doctor.checks._check import Found, Undecided, check, paths
from bnref.doctor.checks._remembered import NEVER
from bnref.doctor.checks._start import at_start

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
    variance = np.concatenate([np.asarray(norm.variance, np.float64) for norm in norms])
    factors = np.sqrt([(variance + own) / (variance + each) for each in FRAMEWORKS])
    largest = np.exp(np.abs(np.log(factors))).max(0)
    return int((largest > 1.1).sum()), float(largest.max())
