r"""Pure tensor functions under every layer: moments, and normalizing by them.

A batch-normalization layer computes :math:`y = \gamma\hat x + \beta` with
:math:`\hat x = (x - \mu)/\sqrt{\sigma^2 + \varepsilon}`. What differs between the variants is
where :math:`\mu` and :math:`\sigma^2` come from. A `Moments` carries them in rows, together with
which row normalizes which example, and the way a sum over the batch becomes an average over the
examples that the numbers were taken from.
"""

from bnref.functional.assignment import Index, Parts
from bnref.functional.batch import (
    Moments,
    masked_moments,
    moments,
    moments_of_examples,
    moments_of_parts,
)
from bnref.functional.domains import moments_of_domains, rows_of_domains
from bnref.functional.normalizing import normalize
from bnref.functional.replicas import mean_over_replicas, over_replicas
from bnref.functional.shapes import over_positions

__all__ = [
    "Index",
    "Moments",
    "Parts",
    "masked_moments",
    "mean_over_replicas",
    "moments",
    "moments_of_domains",
    "moments_of_examples",
    "moments_of_parts",
    "normalize",
    "over_positions",
    "over_replicas",
    "rows_of_domains",
]
