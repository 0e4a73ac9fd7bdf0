"""Results of sweeps too long for a build: CSV files that say how they were made.

A file begins with its provenance in lines ``# key: value``; then come the columns and the rows.
A sweep writes it a finished run at a time, and continues where it was stopped:

>>> record = Record("decay.csv", key=("seed",), columns=("seed", "step", "loss"))  # doctest: +SKIP
>>> for run in record.progress([{"seed": seed} for seed in range(5)]):             # doctest: +SKIP
...     record.add([{**run, "step": step, "loss": loss} for step, loss in train(**run)])
"""

import csv
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path

import numpy as np

__all__ = ["Record", "provenance_line", "read", "recorded"]

_LIBRARIES = ("tensorflow", "keras", "numpy", "bnref")
_TITLES = {"tensorflow": "TensorFlow", "keras": "Keras", "numpy": "NumPy", "bnref": "bnref"}


class Record:
    """A CSV file that grows by one finished run at a time.

    One process at a time may write it.

    Parameters
    ----------
    path : str or os.PathLike
        The file, which need not exist yet, and nor need its folder.
    key : tuple of str
        The columns whose values tell one run from another.
    columns : tuple of str
        All columns in order, those of `key` included.
    provenance : dict, optional
        Entries to add to those collected: command, commit (``+`` after it if tracked files had
        been changed, ``unknown`` outside git), date (UTC), device, cores and versions. Where a
        file is continued, a value that has changed is added after ``;``.

    Raises
    ------
    ValueError
        If `key` or `columns` is empty, repeats a name or has a key that is no column; or if the
        file exists with other columns, or is damaged.
    """

    def __init__(self, path, *, key: tuple, columns: tuple, provenance: dict | None = None):
        self.path, self.key, self.columns = Path(path), tuple(key), tuple(columns)
        _check_names("key", self.key)
        _check_names("columns", self.columns)
        if unknown := [name for name in self.key if name not in self.columns]:
            raise ValueError(f"key has {unknown}, which columns does not have: {self.columns}")
        # Collected before anything is written, so that the file itself cannot make git's tree
        # differ from the commit.
        earlier, _ = self._contents()
        self._provenance = _merged(earlier, {**_collected(self.path), **(provenance or {})})

    def done(self, **key) -> bool:
        """Return whether the run of these values, one for each key column, is in the file.

        Raises
        ------
        ValueError
            If a key column is missing or another name is given.
        """
        return self._identity(key) in self._recorded()

    def missing(self, runs: Iterable[Mapping]) -> list[dict]:
        """Return those of `runs`, each a dict of the key columns, that are not in the file.

        They keep their order, and a run that is given twice is returned once.

        Raises
        ------
        ValueError
            If a run has not exactly the key columns.
        """
        recorded, unique = self._recorded(), {}
        for run in runs:
            unique.setdefault(self._identity(run), dict(run))
        return [run for identity, run in unique.items() if identity not in recorded]

    def add(self, rows: Iterable[Mapping]) -> None:
        """Append all rows of one finished run, or none of them if it fails or is killed.

        Parameters
        ----------
        rows : iterable of dict
            One or more, each with a number, bool or one-line string for every column. All have the
            same values in the key columns. A number may be infinite or NaN.

        Raises
        ------
        TypeError
            If a value is of another type.
        ValueError
            If there are no rows, a row has not exactly the columns, the rows belong to more than
            one run, or that run is in the file already.
        """
        rows = list(rows)
        for number, row in enumerate(rows):
            _check_same_names(f"rows[{number}]", row, self.columns)
        lines = [[_cell(name, row[name]) for name in self.columns] for row in rows]
        runs = {self._identity_of_line(line) for line in lines}
        if len(runs) != 1:
            raise ValueError(
                f"rows must be all those of one run of {self.key}; received {len(lines)} rows of "
                f"{len(runs)} runs"
            )
        _, earlier = self._contents()
        if runs <= {self._identity_of_line(line) for line in earlier}:
            raise ValueError(f"rows are of a run that {self.path} has already: {self.key} = {runs}")
        self._write(earlier + lines)

    def progress(self, runs: Iterable[Mapping]) -> Iterator[dict]:
        """Yield the missing ones of `runs`, and show on stderr how many of them all are done.

        In a terminal that is a bar (of the package tqdm), elsewhere a line a run.
        """
        runs = self.missing(every := list(runs))
        total = len({self._identity(run) for run in every})
        done = total - len(runs)
        if sys.stderr.isatty():
            from tqdm import tqdm

            yield from tqdm(runs, total=total, initial=done, file=sys.stderr, unit="run")
            return
        for number, run in enumerate(runs, start=done + 1):
            values = ", ".join(f"{name}={value}" for name, value in run.items())
            print(f"{self.path.name}: run {number} of {total}: {values}", file=sys.stderr)
            yield run

    def _identity(self, run):
        _check_same_names("the key of a run", run, self.key)
        return tuple(_value(_cell(name, run[name])) for name in self.key)

    def _identity_of_line(self, line):
        return tuple(_value(line[self.columns.index(name)]) for name in self.key)

    def _recorded(self):
        return {self._identity_of_line(line) for line in self._contents()[1]}

    def _contents(self):
        if not self.path.exists():
            return {}, []
        provenance, columns, lines = _parse(self.path)
        if columns != self.columns:
            raise ValueError(
                f"columns are {self.columns}, but {self.path} has {columns}; give the new "
                "columns a new file, or delete the old one"
            )
        return provenance, lines

    def _write(self, lines):
        text = io.StringIO()
        text.writelines(f"# {key}: {value}\n" for key, value in self._provenance.items())
        csv.writer(text, lineterminator="\n").writerows([self.columns, *lines])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)


def read(path) -> tuple[dict, dict[str, np.ndarray]]:
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
    provenance, names, lines = _parse(Path(path))
    if not lines:
        raise ValueError(f"{path} has no rows after its columns {names}")
    return provenance, {
        name: _array(column) for name, column in zip(names, zip(*lines, strict=True), strict=True)
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
    folder = Path(str(resources.files("bnref.recorded")))
    if not (folder / name).is_file():
        names = ", ".join(sorted(path.name for path in folder.glob("*.csv")))
        raise ValueError(f"name must be one of {names}; received {name!r}")
    return folder / name


def provenance_line(provenance: Mapping) -> str:
    """Say in one sentence how a file was made.

    Parameters
    ----------
    provenance : dict of str
        As `read` returns it.

    Raises
    ------
    ValueError
        If an entry that `Record` always writes is missing.
    """
    needed = ("date", "command", "commit", "device", "python", *_LIBRARIES)
    if absent := [key for key in needed if key not in provenance]:
        raise ValueError(f"provenance has no {', '.join(absent)}; it has {', '.join(provenance)}")
    said = {key: provenance[key].replace("; ", " and ") for key in needed}
    days = dict.fromkeys(date[:10] for date in provenance["date"].split("; "))
    commit = said["commit"].replace("+", " with uncommitted changes")
    versions = ", ".join(f"{_TITLES[key]} {said[key]}" for key in _LIBRARIES)
    return (
        f"Recorded {' and '.join(days)} by `{provenance['command']}` at commit {commit} on "
        f"{provenance['device']}, with Python {said['python']}, {versions}."
    )


def _parse(path):
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    if lines[-1]:
        raise ValueError(f"{path}, line {len(lines)} is incomplete: {lines[-1]!r}")
    head = 0
    while lines[head].startswith("# "):
        head += 1
    provenance = dict(line[2:].partition(": ")[::2] for line in lines[:head])
    if not lines[head]:
        raise ValueError(f"{path} has no line of columns: it is empty, or ends after its head")
    # No cell has a line break, so every line of the file is a row of the table.
    names, *rows = (next(csv.reader([line]), []) for line in lines[head:-1])
    for number, row in enumerate(rows, start=head + 2):
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {number} is incomplete: {len(row)} entries for {len(names)} "
                f"columns, {lines[number - 1]!r}"
            )
    return provenance, tuple(names), rows


def _cell(name, value):
    value = value.item() if isinstance(value, np.generic | np.ndarray) else value
    if not isinstance(value, str | int | float):
        raise TypeError(f"column {name!r} accepts a number or a string; received {value!r}")
    if "\n" in (text := str(value)) or "\r" in text:
        raise ValueError(f"column {name!r} accepts strings of one line; received {value!r}")
    return text


def _value(text):
    """Return the number a cell stands for, so that a key of 8 and one of 8.0 are the same."""
    try:
        # Python reads 1_000 as a number too, but it is somebody's label.
        number = float("label" if "_" in text else text)
    except ValueError:
        return text
    return number if number == number else "nan"  # NaN is not equal to itself


def _array(column):
    values = [_value(text) for text in column]
    if all(isinstance(value, float) or value == "nan" for value in values):
        return np.array(values, dtype=np.float64)
    return np.array(column, dtype=str)


def _check_names(argument, names):
    clean = [name for name in names if isinstance(name, str) and name and name.isprintable()]
    if not names or len(set(clean)) != len(names) or names[0].startswith("#"):
        raise ValueError(
            f"{argument} must be one or more different names, the first without # before it; "
            f"received {names!r}"
        )


def _check_same_names(what, mapping, names):
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{what} must be a dict with {names}; received {mapping!r}")
    missing = [name for name in names if name not in mapping]
    unknown = [name for name in mapping if name not in names]
    if missing or unknown:
        raise ValueError(f"{what} lacks {missing} and has unknown {unknown}; accepted: {names}")


def _merged(earlier, now):
    merged = dict(earlier)
    for key, value in now.items():
        if not isinstance(key, str) or not key.isprintable() or ":" in key:
            raise ValueError(f"provenance accepts keys of one line without ':'; received {key!r}")
        value = " ".join(str(value).split())  # one line, as the head of the file needs
        before = merged.setdefault(key, value)
        if value != before and value not in before.split("; "):
            merged[key] = f"{before}; {value}"
    return merged


def _collected(path):
    from bnref import devices  # imports TensorFlow, which reading a file does not need

    script, *arguments = sys.argv or [""]
    folder = Path(script).resolve().parent if Path(script).is_file() else Path.cwd()
    root = Path(_git(folder, "rev-parse", "--show-toplevel") or folder)
    if Path(script).is_file() and Path(script).resolve().is_relative_to(root):
        script = str(Path(script).resolve().relative_to(root))  # the same on every machine
    return {
        "command": shlex.join(["python", script, *arguments]),
        "commit": _commit(root, path),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": devices.describe(),
        "cores": devices.cores(),
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: _version(name) for name in _LIBRARIES},
    }


def _commit(root, path):
    commit = _git(root, "rev-parse", "--short", "HEAD")
    if not commit:
        return "unknown"
    # The file being continued has changed since the commit, but no code reads it.
    inside = path.resolve().is_relative_to(root.resolve())
    but_not = [f":(exclude,literal){path.resolve()}"] if inside else []
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *but_not)
    return f"{commit}+" if changed else commit


def _git(folder, *arguments):
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
