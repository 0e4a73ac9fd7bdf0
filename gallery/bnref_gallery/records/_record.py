"""Writing a recorded file, a finished run at a time."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path

from bnref_gallery.records._cells import as_text, as_value, check_names, check_same_names
from bnref_gallery.records._provenance import collect, merge
from bnref_gallery.records._table import parse, write


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

    def __init__(
        self, path: str | PathLike, *, key: tuple, columns: tuple, provenance: dict | None = None
    ) -> None:
        self.path, self.key, self.columns = Path(path), tuple(key), tuple(columns)
        check_names("key", self.key)
        check_names("columns", self.columns)
        if unknown := [name for name in self.key if name not in self.columns]:
            raise ValueError(f"key has {unknown}, which columns does not have: {self.columns}")
        # Collected before anything is written, so that the file itself cannot make git's tree
        # differ from the commit.
        earlier, _ = self._contents()
        self._provenance = merge(earlier, {**collect(self.path), **(provenance or {})})

    def done(self, **key: object) -> bool:
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
        recorded = self._recorded()
        unique: dict[tuple, dict] = {}
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
            check_same_names(f"rows[{number}]", row, self.columns)
        lines = [[as_text(name, row[name]) for name in self.columns] for row in rows]
        runs = {self._identity_of_line(line) for line in lines}
        if len(runs) != 1:
            raise ValueError(
                f"rows must be all those of one run of {self.key}; received {len(lines)} rows of "
                f"{len(runs)} runs"
            )
        _, earlier = self._contents()
        if runs <= {self._identity_of_line(line) for line in earlier}:
            raise ValueError(f"rows are of a run that {self.path} has already: {self.key} = {runs}")
        write(self.path, self._provenance, self.columns, earlier + lines)

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
        check_same_names("the key of a run", run, self.key)
        return tuple(as_value(as_text(name, run[name])) for name in self.key)

    def _identity_of_line(self, line):
        return tuple(as_value(line[self.columns.index(name)]) for name in self.key)

    def _recorded(self):
        return {self._identity_of_line(line) for line in self._contents()[1]}

    def _contents(self):
        if not self.path.exists():
            return {}, []
        provenance, columns, lines = parse(self.path)
        if columns != self.columns:
            raise ValueError(
                f"columns are {self.columns}, but {self.path} has {columns}; give the new "
                "columns a new file, or delete the old one"
            )
        return provenance, lines
