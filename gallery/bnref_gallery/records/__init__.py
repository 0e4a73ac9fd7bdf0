"""Results of sweeps too long for a build: CSV files that say how they were made.

A file begins with its provenance in lines ``# key: value``; then come the columns and the rows.
A sweep writes it a finished run at a time, and continues where it was stopped:

>>> record = Record("decay.csv", key=("seed",), columns=("seed", "step", "loss"))  # doctest: +SKIP
>>> for run in record.progress([{"seed": seed} for seed in range(5)]):             # doctest: +SKIP
...     record.add([{**run, "step": step, "loss": loss} for step, loss in train(**run)])
"""

from bnref_gallery.records._provenance import provenance_line
from bnref_gallery.records._reading import path_of, read
from bnref_gallery.records._record import Record

__all__ = ["Record", "path_of", "provenance_line", "read"]
