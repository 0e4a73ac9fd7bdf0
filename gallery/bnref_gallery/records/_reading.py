"""Reading recorded files, and finding those that travel with the package."""

from importlib import resources
from os import PathLike
from pathlib import Path

import numpy as np

from bnref_gallery.records._cells import as_array
from bnref_gallery.records._table import parse

_FOLDER = Path(str(resources.files("bnref_gallery"))) / "recorded"


def read(path: str | PathLike) -> tuple[dict, dict[str, np.ndarray]]:
    """Read a recorded file.

    Parameters
    ----------
    path : str or os.PathLike
        A file that `Record` wrote.

    Returns
    -------
    provenance : dict of str
        The entries of its head.
    columns : dict of numpy.ndarray
        An array of shape (rows,) a column: float64 where every entry is a number, else str.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message lists those beside it.
    ValueError
        If it has no line of columns or no rows, or a line is incomplete.
    """
    path = Path(path)
    if not path.exists():
        there = ", ".join(sorted(each.name for each in path.parent.glob("*.csv"))) or "none"
        raise FileNotFoundError(f"there is no recorded file {path}; beside it there are {there}")
    provenance, names, lines = parse(path)
    if not lines:
        raise ValueError(f"{path} has no rows after its columns {names}")
    return provenance, {
        name: as_array(column) for name, column in zip(names, zip(*lines, strict=True), strict=True)
    }


def path_of(name: str) -> Path:
    """Path of a sweep of this file name, among those that travel with the package.

    Parameters
    ----------
    name : str
        Such as ``"with_and_without.csv"``; it may yet have to be recorded.

    Raises
    ------
    ValueError
        If `name` is no file name that ends with ``.csv``.
    """
    if Path(name).name != name or not name.endswith(".csv"):
        raise ValueError(f"name must be a file name that ends with .csv; received {name!r}")
    return _FOLDER / name
