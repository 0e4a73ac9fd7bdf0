"""What is asked of who takes part: masked steps, frozen layers, uneven replicas."""

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
    said,
)
from bnref_gallery.conformance.formula import far, joined, moments, normalized, size, spread

__all__ = ["frozen", "masked", "uneven"]

RANDOM = np.random.default_rng(3)
SEQUENCES = RANDOM.normal([3, -1, 7], [2, 1, 5], (8, 6, 3)).astype("f4")
IMAGES = RANDOM.normal([3, -1, 7], [2, 1, 5], (16, 2, 2, 3)).astype("f4")
CLOSE = 1e-3


def masked(implementation: Implementation) -> Cell:
    """Does a mask keep what is padding out of the statistics?

    8 sequences of 1 to 6 steps, padded with 1,000, and a mask given to the call. What is remembered
    at a weight of 1, and the outputs of the steps that are there, are compared with the formula
    over these alone; a synchronized implementation gets half of the sequences on each of two
    replicas, which hold 13 and 16 steps.

    As the formula: both equal to it. Wrong: the argument is taken, and something else comes out.
    Not offered: no such argument.
    """
    mask = np.arange(6) < np.array([1, 2, 6, 4, 3, 6, 2, 5])[:, None]
    x = np.where(mask[..., None], SEQUENCES, np.float32(1000))
    parts, masks = spread(implementation, x), spread(implementation, mask)
    try:
        outcome = implementation.run(Step(parts, new=1.0, epsilon=1e-3, masks=masks))
    except TypeError as error:
        return Cell(ABSENT, "no argument mask", said(error))
    mean, variance = moments(x, mask)
    wanted = normalized(x, mean, variance, 1e-3)[mask]
    off = far(joined(outcome.y)[mask], wanted)
    kept = max(far(outcome.mean, mean), far(outcome.variance, variance))
    details = f"outputs off by {size(off)}, what is remembered by {size(kept)}"
    if max(off, kept) < CLOSE:
        return Cell(AGREES, "what is there", details)
    alone = [normalized(p, *moments(p, m), 1e-3)[m] for p, m in zip(parts, masks, strict=True)]
    if len(parts) > 1 and far(joined(outcome.y)[mask], joined(alone)) < CLOSE:
        return Cell(WRONG, "synchronized no more", f"each replica by its own steps: {details}")
    return Cell(WRONG, f"off by {size(off)}", details)


def frozen(implementation: Implementation) -> Cell:
    """Which switch makes training use the population, and leave it alone?

    From a population of mean 1 and variance 4, one batch is trained on, in training mode, with each
    switch that the implementation has: do the outputs follow from the population, and did it move?

    The paper trains by the batch alone, and normalizes by the population at inference only
    (Algorithm 2, steps 8 to 11): a layer that is frozen while others learn came with fine-tuning.
    As the formula is here: a switch of the layer that holds while the model around it is called for
    training. Differs by design: only a switch of the call, or one that the next `model.train()`
    undoes. Wrong: none of those documented.
    """
    start, answers, verdict, value = (np.full(3, 1, "f4"), np.full(3, 4, "f4")), [], WRONG, "none"
    wanted = normalized(IMAGES, *start, 1e-3)
    for switch, place in implementation.switches.items():
        step = Step(spread(implementation, IMAGES), start=start, epsilon=1e-3, switch=switch)
        outcome = implementation.run(step)
        moved = max(np.abs(np.asarray(outcome[i]) - start[i - 2]).max() for i in (2, 3))
        holds = far(joined(outcome.y), wanted) < CLOSE
        words = "normalizes by the population" if holds else "normalizes by the batch"
        answers.append(f"{switch}: {words}, moved by {moved:.2g}")
        if holds and moved == 0 and verdict == WRONG:
            verdict, value = {"layer": AGREES, "call": DIFFERS}[place], switch
    return Cell(verdict, value, "; ".join(answers))


def uneven(implementation: Implementation) -> Cell:
    """Are replicas of unequal size normalized as one batch?

    16 examples as 5, 2 and 9 on three replicas, and 14 as 5, 0 and 9. The outputs of all are
    compared with the formula over the global batch. Flax's replicas must have one shape: there the
    smaller parts are padded, and a mask leaves the padding out.

    As the formula: equal to 1e-3 at 5, 2, 9 and with the empty replica, and so is what every
    replica remembers. Differs by design: each replica normalizes by its own batch, which is what it
    says it does; or an empty one is refused. Wrong: neither, or NaN in an output or in what is
    remembered.
    """
    found = {name: outputs_of(implementation, name) for name in ((5, 2, 9), (5, 0, 9))}
    verdicts, values, details = zip(*found.values(), strict=True)
    verdict = next(v for v in (ABSENT, WRONG, DIFFERS, AGREES) if v in verdicts)
    value = f"{values[0]}; one empty: {values[1]}" if len(set(values)) > 1 else values[0]
    texts = (f"{' + '.join(map(str, sizes))}: {d}" for sizes, d in zip(found, details, strict=True))
    return Cell(verdict, value, "; ".join(dict.fromkeys(texts)))


def memory_off(outcome, x):
    """How far the memory of each replica and the saved one are from that of the global batch."""
    mean, variance = moments(x)
    n, results = x.size // x.shape[-1], []
    for share in (1, n / (n - 1)):
        kept = 0.5 * mean, 0.5 + 0.5 * share * variance
        inference = normalized(x, *kept, 1e-3)
        found = [(outcome.mean, kept[0]), (outcome.variance, kept[1])]
        found += [(each, inference) for each in outcome.evaluated]
        results.append(max(far(*pair) for pair in found))
    return min(results)


def outputs_of(implementation, sizes):
    """The verdict, the value and the details for replicas of these sizes."""
    x = IMAGES[: sum(sizes)]
    parts = np.split(x, np.cumsum(sizes)[:-1])
    try:
        outcome = implementation.run(Step(parts, new=0.5, epsilon=1e-3, then=x))
    except REFUSALS as error:
        return (DIFFERS if 0 in sizes else ABSENT), "refused", said(error)
    y, wanted = joined(outcome.y), normalized(x, *moments(x), 1e-3)
    off = far(y, wanted)
    evaluated = outcome.evaluated or []
    kept = np.concatenate([np.ravel(outcome.mean), np.ravel(outcome.variance)])
    if not np.isfinite([y.sum(), kept.sum(), *(each.sum() for each in evaluated)]).all():
        return WRONG, "NaN", "NaN in an output of some replica or in what is remembered"
    if off < CLOSE:
        memory, details = memory_off(outcome, x), f"equal to the global batch to {size(off)}"
        if memory < CLOSE:
            return AGREES, "as one batch", details
        details += f", what is remembered off by {size(memory)}"
        return WRONG, f"memory off by {size(memory)}", details
    own = joined([normalized(p, *moments(p), 1e-3) for p in parts if len(p)])
    if far(y, own) < CLOSE:
        return DIFFERS, "each its own", f"each by its own batch, {size(off)} from the global one"
    return WRONG, f"off by {size(off)}", f"off by {off:.2g}, and not each by its own batch"
