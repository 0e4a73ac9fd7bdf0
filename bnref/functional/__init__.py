r"""Pure tensor functions under every layer: moments, and normalizing by them.

A batch-normalization layer computes :math:`y = \gamma\hat x + \beta` with
:math:`\hat x = (x - \mu)/\sqrt{\sigma^2 + \varepsilon}`. What differs between the variants is where
:math:`\mu` and :math:`\sigma^2` come from, so a `Moments` carries the numbers together with the way
a sum over the batch becomes an average over the examples they were taken from.
"""

from bnref.functional.batch import (
    Moments,
    masked_moments,
    moments,
    moments_of_examples,
    moments_of_parts,
)
from bnref.functional.context import remembered
from bnref.functional.domains import checked_domain, moments_of_domains
from bnref.functional.normalizing import normalize
from bnref.functional.replicas import mean_over_replicas, over_replicas
from bnref.functional.shapes import over_positions

__all__ = [
    "Moments",
    "checked_domain",
    "masked_moments",
    "mean_over_replicas",
    "moments",
    "moments_of_domains",
    "moments_of_examples",
    "moments_of_parts",
    "normalize",
    "over_positions",
    "over_replicas",
    "remembered",
]
