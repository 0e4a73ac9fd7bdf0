"""Numbers that a page states: measured on the page, held to bounds, and printed.

The proof of a page calls :func:`claim` for each number of its prose. Run by itself, the script
prints what it measured and stops where a bound does not hold. Built into the site, the page shows
the measured number where its prose has ``:claim:`94 % <name>```, and the bounds beside it.
"""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["claim", "forget", "held"]

_held: dict[str, dict] = {}


def claim(
    name: str, values: ArrayLike, says: str, *, above: float | None = None,
    below: float | None = None, of: str = "each",
) -> None:  # fmt: skip
    """Hold a measured number to its bounds, print it, and keep it for the page's prose.

    Parameters
    ----------
    name : str
        What the prose calls it: letters, digits and underscores.
    values : float or array_like
        What was measured: one number, or one a seed.
    says : str
        What the number is, in words and with its unit: "test accuracy, seed by seed".
    above, below : float, optional
        The bounds, which are not reached; at least one of them.
    of : {"each", "mean"}
        Whether each value has to lie within the bounds, or their mean.

    Raises
    ------
    AssertionError
        If a bound does not hold.
    ValueError
        If there is no bound or no value, a value is not finite, ``of`` is something else, or the
        name was given to another number before.
    """
    found = np.ravel(np.asarray(values, np.float64))
    _refuse_what_says_nothing(name, found, above, below, of)
    bounds = " and ".join(
        f"{word} {bound:.6g}"
        for word, bound in (("above", above), ("below", below))
        if bound is not None
    )
    whole = f"{says}: {_with_spread(found)}"
    tested = found if of == "each" else found.mean(keepdims=True)
    low, high = -np.inf if above is None else above, np.inf if below is None else below
    which = "it" if found.size == 1 else "each" if of == "each" else "the mean"
    if not ((low < tested) & (tested < high)).all():
        raise AssertionError(f"{whole}, but {which} has to be {bounds}")
    print(f"{whole}; {which} is {bounds}, as claimed")
    _held[name] = {"values": found.tolist(), "says": says, "bounds": f"{which} is {bounds}"}
    _held[name] |= {"above": above, "below": below}


def held() -> dict[str, dict]:
    """What was claimed since the last `forget`, by name."""
    return dict(_held)


def forget() -> None:
    """Begin a new page."""
    _held.clear()


def _refuse_what_says_nothing(name, found, above, below, of):
    if not name.isidentifier():
        raise ValueError(f"name must be letters, digits and underscores; received {name!r}")
    if name in _held:
        raise ValueError(f"name must be new on the page; {name!r} was claimed before")
    if above is None and below is None:
        raise ValueError(f"the claim {name!r} needs above, below or both; received neither")
    if not found.size or not np.isfinite(found).all():
        raise ValueError(f"values must be finite numbers, one or more; received {found}")
    if of not in ("each", "mean"):
        raise ValueError(f"of must be 'each' or 'mean'; received {of!r}")


def _with_spread(found):
    """The mean, and the smallest and the largest where there are several."""
    if found.size == 1:
        return _short(found[0])
    least, most = _short(found.min()), _short(found.max())
    return f"{_short(found.mean())} ({least} to {most}, {found.size} values)"


def _short(number):
    """A number with three digits that count."""
    return f"{number:.3g}"
