"""What conversions refuse."""

from numbers import Integral, Real

import numpy as np

__all__ = []


def number(name, value, least, most=np.inf, *, strictly=False):
    """Return the value if it is a number in the range, or refuse it by name."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not least <= value <= most or np.isinf(value) or (strictly and value == least):
        bounds = f"between {least} and {most}" if most < np.inf else f"{least} or more"
        bounds = f"above {least}" if strictly else bounds
        raise ValueError(f"{name} must be a number {bounds}; received {value!r}")
    return float(value)


def count(value):
    """Return the number of values a channel, which Bessel's correction needs at least 2 of."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 2:
        raise ValueError(f"count must be a whole number, 2 or more; received {value!r}")
    return int(value)


def array(name, value, least=-np.inf, *, strictly=False):
    """Return the value as float64 if it is finite and not below the least, or refuse it by name."""
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
