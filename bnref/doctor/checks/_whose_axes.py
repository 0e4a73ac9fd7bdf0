"""Question 1, whose statistics: axes, masks, padding, and one norm in two places."""

import numpy as np

from bnref.doctor._passes import pooled_of
from bnref.doctor.checks._channels import TINY
from bnref.doctor.checks._check import Found, check, paths

# Layers that leave each value in its place, so that what they get has its channels there too.
IN_PLACE = {"Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Dropout", "GaussianNoise"}


@check(
    1,
    "gallery/pitfalls/plot_the_wrong_axis_with_channels_first",
    symptoms={
        "numbers differ from PyTorch": "sometimes",
        "no better than without batch norm": "seldom",
        "an error message": "seldom",
    },
)
def wrong_axis(case):
    """A norm normalizes another axis than the channels.

    A layer before it says where its channels are, by ``data_format``: that right before it, or
    before activations, dropout and ``Permute``, which moves them.
    """
    wrong = {}
    for norm in case.norms:
        calls = case.training.of(norm)
        if not calls or len(calls[0].shape) < 3:
            continue
        channels = _axis_of_channels(case, case.source(norm), len(calls[0].shape))
        if channels is not None and norm.axis % len(calls[0].shape) != channels:
            wrong[norm] = channels, calls[0].shape
    if not wrong:
        return None
    norm, (axis, shape) = next(iter(wrong.items()))
    evidence = (
        f"the inputs have the shape {shape}, with the channels in axis {axis}; axis {norm.axis} is "
        f"normalized, of size {norm.channels}"
    )
    fix = f"norm = keras.layers.BatchNormalization(axis={axis})"
    return Found(paths(wrong), evidence, fix)


def _axis_of_channels(case, layer, rank):
    """Where a layer puts out the channels, as far as it or those before it say; else None."""
    axes = list(range(rank))  # which axis of the outputs of ``layer`` is now where
    while layer is not None:
        form = getattr(layer, "data_format", None)
        if form is not None:
            return axes.index(1 if form == "channels_first" else rank - 1)
        if type(layer).__name__ == "Permute":
            axes = [(0, *layer.dims)[axis] for axis in axes]
        elif type(layer).__name__ not in IN_PLACE:
            return None
        layer = case.before(layer)
    return None


@check(
    1,
    "gallery/pitfalls/plot_one_norm_for_two_branches",
    symptoms={
        "validation far worse than training": "sometimes",
        "test accuracy near chance": "seldom",
    },
)
def shared_by_branches(case):
    """One norm serves two branches whose inputs differ, and its population is a mixture.

    The first calls of all passes are compared with the second ones, and so on: means more than half
    a deviation apart, or variances that differ by a factor of two, in most channels.
    """
    apart = {}
    for norm in case.followers:
        calls = [[each for each in batch if each.norm is norm] for batch in case.training.calls]
        if len(calls[0]) < 2 or len({len(each) for each in calls}) > 1:
            continue
        moments = [pooled_of(list(each)) for each in zip(*calls, strict=True)]
        means, variances = (np.array(each) for each in zip(*moments, strict=True))
        variances = variances + TINY
        shift = float(np.median(np.ptp(means, axis=0) / np.sqrt(variances.min(0))))
        ratio = float(np.median(variances.max(0) / variances.min(0)))
        if shift > 0.5 or ratio > 2:
            apart[norm] = shift, ratio
    if not apart:
        return None
    shift, ratio = max(apart.values())
    evidence = (
        f"the calls of one pass get inputs whose means are {shift:.2g} deviations apart and whose "
        f"variances differ {ratio:.2g} times"
    )
    fix = (
        "# a norm for each branch, around the shared weights; or one with two populations:\n"
        "norm = bnref.layers.DomainBatchNorm(domains=2)  # norm(x, domain=branch)"
    )
    return Found(paths(apart), evidence, fix)


@check(
    1,
    "gallery/pitfalls/plot_a_mask_switches_synchronization_off",
    symptoms={"worse on two GPUs": "sometimes"},
)
def mask_unsynchronizes(case):
    """A synchronized norm gets a mask, and Keras 3 does not synchronize then.

    Keras 3's own layer alone: others that look at a mask count over all replicas what it selects.
    """
    norms = [
        norm
        for norm in case.norms
        if norm.unsynchronized_by_mask and any(each.masked for each in case.training.of(norm))
    ]
    if not norms or case.replicas == 1:
        return None
    evidence = f"a mask reaches it on {case.replicas} replicas: each uses its own statistics"
    fix = "norm = bnref.layers.SyncBatchNorm()  # averages over all replicas, mask or none"
    return Found(paths(norms), evidence, fix)


@check(
    1,
    "gallery/variants/plot_masked_sequences",
    symptoms={
        "predictions depend on the batch": "often",
        "validation far worse than training": "sometimes",
    },
)
def padding_counted(case):
    """Padded steps count as data: no mask reaches the norm, or it does not look at it.

    Looked for in the inputs: sequences of different lengths that end in zeros, in more than a
    twentieth of all steps. That share of the statistics is then the padding's.
    """
    found = _lengths(case)
    if found is None:
        return None
    lengths, padded = found
    moved = {}
    for norm in case.followers:
        seen = case.training.of(norm)[0]
        if (seen.masked and norm.masks) or len(seen.shape) != 3:
            continue
        if seen.shape[:2] == (case.batches[0].size, padded):
            moved[norm] = seen
    if not moved:
        return None
    share = 1 - lengths.mean() / padded
    if share < 0.05:
        return None
    evidence = (
        f"{100 * share:.0f} % of the steps are padding (lengths {lengths.min()} to "
        f"{lengths.max()} of {padded}), and the norm averages over all of them"
    )
    fix = (
        "x = keras.layers.Masking()(x)  # or Embedding(..., mask_zero=True), and\n"
        "x = bnref.layers.MaskedBatchNorm()(x)"
    )
    return Found(paths(moved), evidence, fix)


def _lengths(case):
    """The lengths of sequences that end in zeros, and that of all; None where there are none.

    Whole numbers of shape (N, T), or numbers of shape (N, T, C).
    """
    x = case.batches[0].x[0]
    if isinstance(x, dict | list | tuple):
        return None
    x = np.asarray(x)
    if not (x.ndim == 3 or (x.ndim == 2 and x.dtype.kind in "iu")) or x.shape[1] < 3:
        return None
    there = x != 0 if x.ndim == 2 else np.any(x != 0, axis=-1)
    lengths = x.shape[1] - np.argmax(there[:, ::-1], axis=1)
    lengths = np.where(there.any(1), lengths, 0)
    return (lengths, x.shape[1]) if len(np.unique(lengths)) > 2 else None
