"""What is asked of the arithmetic: epsilon, one value, a large mean, 16 bits, the gradient."""

import numpy as np
import tensorflow as tf

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
from bnref_gallery.conformance.formula import (
    far,
    gradient,
    joined,
    moments,
    normalized,
    size,
    spread,
    stretch,
)

__all__ = ["bfloat16", "epsilon", "float16", "gradients", "large_mean", "one_value"]

RANDOM = np.random.default_rng(2).standard_normal((64, 2, 2, 32))


def epsilon(implementation: Implementation) -> Cell:
    """How large is ε by default, and where does it stand?

    Two batches of ±0.01 and ±0.1 are trained on with the default. Under the root the factor is
    g = 1/√(σ² + ε), so that 1/g² − σ² is the same ε for both; beside it, 1/(σ + ε), 1/g − σ is.
    σ² is the biased variance; another one in its place would fit neither.

    As the formula (Algorithm 1): under the root, beside the biased variance. The paper gives no
    number. Elsewhere but fixed differs by design; if neither fits, it is wrong.
    """
    signs, deviations = np.tile([[[[1.0]]], [[[-1.0]]]], (4, 1, 1, 3)), np.array([0.01, 0.1])
    gains = []
    for deviation in deviations:
        x = np.float32(deviation * signs)
        y = joined(implementation.run(Step(spread(implementation, x))).y)
        gains.append(stretch(x, y).mean())
    gains = np.array(gains)
    places = {"under the root": gains**-2 - deviations**2, "beside σ": 1 / gains - deviations}
    place = next((p for p, found in places.items() if np.ptp(found) < 0.05 * found[0]), "neither")
    found = places.get(place, [np.nan])[0]
    details = f"{place}: {found:.3g}; factors {gains[0]:.5g} for ±0.01 and {gains[1]:.5g} for ±0.1"
    verdict = {"under the root": AGREES, "beside σ": DIFFERS}.get(place, WRONG)
    return Cell(verdict, f"{found:.1g}, {place}", details)


def one_value(implementation: Implementation) -> Cell:
    """What comes of a batch with one value a channel?

    One example of one pixel is trained on, at a weight of 0.5; a synchronized implementation gets
    one on each of two replicas, 4 apart.

    As the formula: β for one value, ±1 for two (Algorithm 1), and what is remembered is finite.
    A refusal differs by design. Outputs that are anything else, NaN or infinity are wrong.
    """
    x = np.float32([[[[5.0, -3.0, 100.0]]]])
    parts = [x, x + 4] if implementation.synchronized else [x]
    try:
        outcome = implementation.run(Step(parts, new=0.5, epsilon=1e-6))
    except REFUSALS as error:
        return Cell(DIFFERS, "refused", said(error))
    y, variance = joined(outcome.y), np.array(outcome.variance)
    wanted = [[[[-1.0]]], [[[1.0]]]] if len(parts) > 1 else [[[[0.0]]]]
    right = np.abs(y - wanted).max() < 1e-3
    kept = 2 * variance.reshape(-1)[0] - 1
    details = f"y is {np.round(y[0].reshape(-1), 3)}, the variance that is remembered {kept:.3g}"
    if not right or not np.isfinite(variance).all():
        return Cell(WRONG, f"y = {y.reshape(-1)[0]:.2g}, remembers {kept:.2g}", details)
    return Cell(AGREES, f"y = {'±1' if len(parts) > 1 else 'β'}, remembers {kept:.3g}", details)


def large_mean(implementation: Implementation) -> Cell:
    """How far off is the variance where the mean is 10,000 σ, in float32?

    Inputs of mean 10,000 and σ 1, 256 values for each of 32 channels, at a weight of 1. The
    variance used follows from how much the outputs vary, the one remembered is read. The largest
    relative error of both, over all channels, against float64 on the same inputs.

    As the formula: below 1 %, which the variance taken around the mean keeps by far. Above it, as
    E[x²] − E[x]² is: differs by design, where the documentation says that the default is less
    stable and names an option with which the error is below 1 %; wrong, where it does not.
    """
    x = np.float32(RANDOM + 1e4)
    error = variance_error(implementation, x, {})
    details = f"largest relative error of the variance {size(error)}"
    value = f"error {size(error)}{' times σ²' if error >= 1 else ''}"
    if error < 0.01 or not implementation.cures:
        return Cell(AGREES if error < 0.01 else WRONG, value, details)
    cured = variance_error(implementation, x, implementation.cures)
    details += f"; {size(cured)} with {named_cures(implementation)}"
    return Cell(DIFFERS if cured < 0.01 else WRONG, value, details)


def named_cures(implementation):
    """The options that mend a variance that cancels, as they are written."""
    return ", ".join(f"{name}={value}" for name, value in implementation.cures.items())


def variance_error(implementation, x, options):
    """The largest relative error of the variance that normalizes and of the remembered one."""
    step = Step(spread(implementation, x), options, new=1.0, epsilon=1e-3)
    outcome, true = implementation.run(step), moments(x)[1]
    used = stretch(x, joined(outcome.y)) ** -2.0 - 1e-3
    kept = outcome.variance / np.array([true * 256 / 255, true])  # whichever of both is meant
    return max(np.abs(used / true - 1).max(), np.abs(kept - 1).max(-1).min())


def float16(implementation: Implementation) -> Cell:
    """In float16: of which types are outputs and statistics, and does σ = 30 overflow?

    float16 inputs of σ 30, 256 values a channel: their squares add up to 230,000, and float16 ends
    at 65,504. The implementation is used in its mixed mode: `mixed_float16` in Keras,
    `dtype="float16"` in Flax, float16 inputs elsewhere.

    As the formula: outputs and what is remembered are right to 1 %, and remembered in float32.
    Remembered in float16 differs by design. Wrong: further off.
    """
    return in_half(implementation, np.float16(30 * RANDOM), 0.01, "at σ = 30")


def bfloat16(implementation: Implementation) -> Cell:
    """In bfloat16: of which types are outputs and statistics, and what do its 8 bits cost?

    bfloat16 inputs of mean 4 and σ 1, 256 values a channel. The type has the range of float32 and
    8 bits of precision, so that a sum of 256 values that is kept in it is off by some per cent.
    The implementation is used in its mixed mode: `mixed_bfloat16` in Keras, `dtype="bfloat16"` in
    Flax, bfloat16 inputs elsewhere.

    As the formula: outputs and what is remembered are right to 2 % (rounding alone makes 0.2 % of
    the outputs, and 1.6 % of σ of such a mean), and remembered in float32. Remembered in bfloat16
    differs by design. Wrong: further off.
    """
    x = (RANDOM + 4).astype(tf.bfloat16.as_numpy_dtype)
    return in_half(implementation, x, 0.02, "at a mean of 4 σ")


def in_half(implementation, x, allowed, where):
    """A cell for inputs of 16 bits: the errors of outputs and memory, and the types of both."""
    step = Step(spread(implementation, x), new=1.0, epsilon=1e-3, half=x.dtype.name)
    try:
        outcome = implementation.run(step)
    except REFUSALS as error:
        return Cell(ABSENT, "refused", said(error))
    y, mean, variance = joined(outcome.y), np.asarray(outcome.mean), np.asarray(outcome.variance)
    true = moments(x)
    count = x.size // x.shape[-1]
    # Whichever variance is meant to be remembered, the biased one or the other.
    kept = min(far(variance, true[1] * share) for share in (1, count / (count - 1)))
    # The mean over σ: its own size may be next to nothing.
    off_mean = np.max(np.abs(np.float64(mean) - true[0]) / np.sqrt(true[1]))
    off = max(far(y, normalized(x, *true, 1e-3)), kept, off_mean)
    off = off if np.isfinite(off) else np.inf
    details = f"y {y.dtype}, remembered in {variance.dtype}, off by {size(off)} {where}"
    value = f"y {y.dtype}, kept {variance.dtype}, {'right' if off < allowed else 'wrong'}"
    if off >= allowed:
        return Cell(WRONG, value, details)
    return Cell(AGREES if variance.dtype == np.float32 else DIFFERS, value, details)


def gradients(implementation: Implementation) -> Cell:
    """How far is the gradient with respect to x from float64's?

    Inputs of σ 1 and a random dy, 256 values a channel: centred, and with a mean of 100. The
    largest difference from section 3 of the paper in float64, over its largest entry.

    As the formula: both below 1e-4; float32 allows some 1e-5. Above it: differs by design, where an
    option that the documentation names for this (see "large mean") keeps both below; else wrong.
    """
    found = gradient_errors(implementation, {})
    value = f"{size(found[0])}; at 100 σ {size(found[1])}"
    details = (
        f"largest relative error {size(found[0])} centred, {size(found[1])} at a mean of 100 σ"
    )
    if max(found) < 1e-4 or not implementation.cures:
        return Cell(AGREES if max(found) < 1e-4 else WRONG, value, details)
    cured = max(gradient_errors(implementation, implementation.cures))
    details += f"; at most {size(cured)} with {named_cures(implementation)}"
    return Cell(DIFFERS if cured < 1e-4 else WRONG, value, details)


def gradient_errors(implementation, options):
    """The largest relative error of dx, centred and at a mean of 100 σ."""
    dy, found = np.float32(np.roll(RANDOM, 7)), []
    for mean in (0, 100):
        x = np.float32(RANDOM + mean)
        parts = spread(implementation, x), spread(implementation, dy)
        outcome = implementation.run(Step(parts[0], options, epsilon=1e-3, dy=parts[1]))
        found.append(far(joined(outcome.dx), gradient(x, dy, 1e-3)))
    return found
