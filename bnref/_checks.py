"""What many functions refuse: each check names the argument, what came and what is accepted."""

from numbers import Integral, Real

import numpy as np


def is_number(value):
    """Whether it is a real number, and no boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


def whole_number(name, value, *, least=1):
    """``value`` as an int, if it is a whole number of at least ``least``.

    Raises
    ------
    ValueError
        It is not; ``name`` says which argument.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; received {value!r}")
    return int(value)


def number(name, value, least, most=np.inf, *, strictly=False):
    """``value`` as a float, if it is finite and lies from ``least`` to ``most``.

    Raises
    ------
    ValueError
        It does not, or it is ``least`` itself where it must be ``strictly`` above.
    """
    inside = is_number(value) and least <= value <= most and not np.isinf(value)
    if not inside or (strictly and value == least):
        bounds = f"between {least} and {most}" if most < np.inf else f"{least} or more"
        bounds = f"above {least}" if strictly else bounds
        raise ValueError(f"{name} must be a number {bounds}; received {value!r}")
    return float(value)


def finite_array(name, value, least=-np.inf, *, strictly=False):
    """``value`` as a float64 array, if all of it is finite and not below ``least``.

    Raises
    ------
    ValueError
        It is not, or is ``least`` somewhere where it must be ``strictly`` above.
    """
    values = np.asarray(value)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers; received {values.dtype} values, {value!r}")
    values = values.astype(np.float64)
    bad = ~np.isfinite(values) | (values < least) | (strictly & (values <= least))
    if bad.any():
        must = "finite" if least == -np.inf else f"finite and {least} or more"
        must = f"finite and above {least}" if strictly else must
        raise ValueError(
            f"{name} must be {must}; received {values[bad].ravel()[0]} among {values.size} values"
        )
    return values


def stored_variance(layer, variance):
    """Refuse a population's variance that is negative or not finite.

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
