"""What is asked of the derivatives: the first is `normalizing.gradients`; here the second."""

import numpy as np

from bnref_gallery.conformance.asking import (
    ABSENT,
    AGREES,
    REFUSALS,
    WRONG,
    Cell,
    Implementation,
    Step,
    said,
)
from bnref_gallery.conformance.formula import differentiated_along, far, joined, size, spread

__all__ = ["second_derivatives"]

# Few examples: what a stopped mean leaves out is about one part in so many.
X, WEIGHTS, DIRECTION = np.random.default_rng(5).normal(1, [2, 1, 5], (3, 6, 1, 1, 3))
ALLOWED = {"float64": 1e-6, "float32": 1e-3}


def second_derivatives(implementation: Implementation) -> Cell:
    """Is the derivative right when it is differentiated again, as a gradient penalty does?

    The gradient of Σ w tanh(y) by x is differentiated along a random direction, in training mode:
    a product of the Hessian with a vector. x is 6 images of one pixel, and a synchronized
    implementation gets half on each of two replicas. PyTorch and TensorFlow differentiate backwards
    twice, Flax forwards over backwards. Compared with central differences of the first derivative,
    section 3 of the paper in float64; the largest difference is given over the largest entry.

    As the formula: below 1e-6 in float64 and below 1e-3 in float32; one of them may be refused.
    Wrong: above in one of them. Not offered: both are refused.
    """
    found, details = {}, []
    for kind, allowed in ALLOWED.items():
        x, weights, direction = (each.astype(kind) for each in (X, WEIGHTS, DIRECTION))
        parts, *given = (spread(implementation, each) for each in (x, weights, direction))
        step = Step(parts, epsilon=1e-3, weights=given[0], direction=given[1])
        try:
            along = implementation.run(step).along
        except (*REFUSALS, LookupError) as error:  # TensorFlow's word for "no gradient" is the last
            details.append(f"{kind}: {said(error)}")
            continue
        wanted = differentiated_along(x, np.float64(weights), np.float64(direction), 1e-3)
        off = far(joined(along), wanted)
        found[kind] = off, off < allowed
        details.append(f"{kind}: off by {size(off)}")
    if not found:
        return Cell(ABSENT, "refused", "; ".join(details))
    words = (
        f"{kind} {'' if right else 'off by '}{size(off)}" for kind, (off, right) in found.items()
    )
    verdict = AGREES if all(right for _, right in found.values()) else WRONG
    return Cell(verdict, "; ".join(words), "; ".join(details))
