"""The text of a cell, the value it stands for, and the names of the columns.

The `csv` module splits lines; what a cell means is said here in a few lines, because `json` does
not read ``nan`` and ``inf`` as Python writes them, and pandas takes over half a second to import
and reads an empty label as a missing number.
"""

from collections.abc import Mapping

import numpy as np


def as_text(name, value):
    """Return the text of a cell in the column `name`, or refuse its value."""
    value = value.item() if isinstance(value, np.generic | np.ndarray) else value
    if not isinstance(value, str | int | float):
        raise TypeError(f"column {name!r} accepts a number or a string; received {value!r}")
    if "\n" in (text := str(value)) or "\r" in text:
        raise ValueError(f"column {name!r} accepts strings of one line; received {value!r}")
    return text


def as_value(text):
    """Return the number a cell stands for, so that a key of 8 and one of 8.0 are the same."""
    try:
        # Python reads 1_000 as a number too, but it is somebody's label.
        number = float("label" if "_" in text else text)
    except ValueError:
        return text
    return number if number == number else "nan"  # NaN is not equal to itself


def as_array(column):
    """Return an array of numbers, if all cells of the column are, else of strings."""
    values = [as_value(text) for text in column]
    if all(isinstance(value, float) or value == "nan" for value in values):
        return np.array(values, dtype=np.float64)
    return np.array(column, dtype=str)


def check_names(argument, names):
    """Refuse names that columns cannot have."""
    clean = [name for name in names if isinstance(name, str) and name and name.isprintable()]
    if not names or len(set(clean)) != len(names) or names[0].startswith("#"):
        raise ValueError(
            f"{argument} must be one or more different names, the first without # before it; "
            f"received {names!r}"
        )


def check_same_names(what, mapping, names):
    """Refuse a run or a row that has not exactly these columns."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{what} must be a dict with {names}; received {mapping!r}")
    missing = [name for name in names if name not in mapping]
    unknown = [name for name in mapping if name not in names]
    if missing or unknown:
        raise ValueError(f"{what} lacks {missing} and has unknown {unknown}; accepted: {names}")
