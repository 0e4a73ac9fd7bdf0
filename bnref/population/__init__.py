r"""Population statistics: Precise BN, passes that do not count, and a look at what is stored.

`recompute` throws the running average away and takes the statistics of the final weights from fresh
batches; `pooled` and `corrected` are its estimators.
"""

from bnref.population._checking import check
from bnref.population._estimators import corrected, pooled
from bnref.population._recomputing import recompute
from bnref.population._unchanged import unchanged

__all__ = [
    "check",
    "corrected",
    "pooled",
    "recompute",
    "unchanged",
]
