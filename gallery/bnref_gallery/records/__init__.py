"""Results of sweeps too long for a build: CSV files that say how they were made.

A file begins with its provenance in lines ``# key: value``; then come the columns and the rows.
A sweep writes it a finished run at a time, and continues where it was stopped:

>>> record = Record("decay.csv", key=("seed",), columns=("seed", "step", "loss"))  # doctest: +SKIP
>>> for run in record.progress([{"seed": seed} for seed in range(5)]):             # doctest: +SKIP
...     record.add([{**run, "step": step, "loss": loss} for step, loss in train(**run)])
"""

from bnref_gallery.records.provenance import provenance_line
from bnref_gallery.records.reading import read, recorded, to_record
from bnref_gallery.records.record import Record

__all__ = ["Record", "provenance_line", "read", "recorded", "to_record"]
