"""The doctor: what is wrong with the batch norm of a model, by what evidence, and how to mend it.

`examine` looks once, `Watch` while ``fit`` runs; ``python -m bnref.doctor model.keras data.npz``
looks at a saved model. `CHECKS` has every cause that is looked for.
"""

from bnref.doctor._examine import examine
from bnref.doctor._report import Finding, Report
from bnref.doctor._watch import Watch
from bnref.doctor.checks import CHECKS

__all__ = ["CHECKS", "Finding", "Report", "Watch", "examine"]
