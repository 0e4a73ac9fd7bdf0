"""Checks that several parts of the package share."""

import numpy as np

__all__ = []


def check_variance(layer, variance):
    """Refuse a stored variance that is negative or not finite.

    Averaging weights as if they were all alike, a server's optimizer, or a file that was cut can
    leave one behind; 1/√(σ² + ε) is then NaN, or a large number without meaning.

    Parameters
    ----------
    layer : str
        Its name, for the error.
    variance : array, shape (C,) or (D, C)

    Raises
    ------
    ValueError
        Names the layer, the channels and their values.
    """
    variance = np.asarray(variance)
    bad = ~(np.isfinite(variance) & (variance >= 0))
    if not bad.any():
        return
    channels = np.unique(np.nonzero(bad)[-1])
    first = ", ".join(str(each) for each in channels[:5])
    more = f" and {len(channels) - 5} more" if len(channels) > 5 else ""
    raise ValueError(
        f"moving_variance of layer {layer!r} must be finite and at least 0; received "
        f"{variance[bad].flat[0]} and the like in channel {first}{more}: recompute the population "
        "(bnref.population.recompute)"
    )
