"""Reading recorded files, and finding those that travel with the package."""

from importlib import resources
from os import PathLike
from pathlib import Path

import numpy as np

from bnref_gallery.records.cells import as_array
from bnref_gallery.records.table import parse

__all__ = ["read", "recorded", "to_record"]

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
        If there is no such file.
    ValueError
        If it has no line of columns or no rows, or a line is incomplete.
    """
    provenance, names, lines = parse(Path(path))
    if not lines:
        raise ValueError(f"{path} has no rows after its columns {names}")
    return provenance, {
        name: as_array(column) for name, column in zip(names, zip(*lines, strict=True), strict=True)
    }


def recorded(name: str) -> Path:
    """Path of a recorded sweep that travels with the package.

    Parameters
    ----------
    name : str
        Its file name, such as ``"with_and_without.csv"``.

    Raises
    ------
    ValueError
        If no such file was recorded; the message lists those there are.
    """
    if not (_FOLDER / name).is_file():
        names = ", ".join(sorted(path.name for path in _FOLDER.glob("*.csv")))
        raise ValueError(f"name must be one of {names}; received {name!r}")
    return _FOLDER / name


def to_record(name: str) -> Path:
    """Path where a sweep of this file name is recorded, among those that travel with the package.

    Raises
    ------
    ValueError
        If `name` is no file name that ends with ``.csv``.
    """
    if Path(name).name != name or not name.endswith(".csv"):
        raise ValueError(f"name must be a file name that ends with .csv; received {name!r}")
    return _FOLDER / name
