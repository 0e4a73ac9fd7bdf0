"""Record what each batch-norm implementation does, behaviour by behaviour: the conformance table.

``python gallery/results/run_conformance.py`` measures every cell and records it in
``conformance.csv``, or in the file of ``--file``; a minute or two. What is there already is left
as it is: delete the file to measure anew. With ``--implementation``, ``--behaviour`` or both, the
cells of that row or column, or that one cell, are printed and nothing is recorded.

Rows of PyTorch and Flax need the extra ``conformance``, those of tf_keras the extra ``gallery``
(``pip install ".[gallery,conformance]"``); a row whose library is not installed is left out, and
said so.
"""

import argparse
import sys
from pathlib import Path

from bnref import devices
from bnref_gallery import records
from bnref_gallery.conformance import BEHAVIOURS, IMPLEMENTATIONS, measured

COLUMNS = ("implementation", "behaviour", "verdict", "value", "details", "versions")


def arguments(given=None):
    """What is asked for; a name that is unknown ends the program with those there are."""
    parser = argparse.ArgumentParser(description="Record the conformance table.")
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, metavar="NAME")
    parser.add_argument("--behaviour", choices=BEHAVIOURS, metavar="NAME")
    parser.add_argument("--file", type=Path, default=records.path_of("conformance.csv"))
    return parser.parse_args(given)


def installed(names):
    """Those of the implementations that can be measured here; the others are named on stderr."""
    for name in names:
        if module := IMPLEMENTATIONS[name].missing():
            print(f"{name} left out: {module} is not installed", file=sys.stderr)
        else:
            yield name


def rows(implementation, behaviour):
    """The one row of the file that a cell is."""
    versions = IMPLEMENTATIONS[implementation].versions()
    cell = measured(implementation, behaviour)
    return [dict(zip(COLUMNS, (implementation, behaviour, *cell, versions), strict=True))]


def main(asked):
    """Print the cells that were asked for, or record all."""
    devices.configure()
    names = [asked.implementation] if asked.implementation else IMPLEMENTATIONS
    behaviours = [asked.behaviour] if asked.behaviour else BEHAVIOURS
    cells = [{"implementation": n, "behaviour": b} for n in installed(names) for b in behaviours]
    if asked.implementation or asked.behaviour:
        for cell in cells:
            [row] = rows(**cell)
            print(*(row[name] for name in COLUMNS), sep=" | ")
        return
    record = records.Record(
        asked.file, key=("implementation", "behaviour"), columns=COLUMNS, provenance={}
    )
    for cell in record.progress(cells):
        record.add(rows(**cell))


if __name__ == "__main__":
    main(arguments())
