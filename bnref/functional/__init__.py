r"""Pure tensor functions under every layer: moments, and normalizing by them.

A batch-normalization layer computes :math:`y = \gamma\hat x + \beta` with
:math:`\hat x = (x - \mu)/\sqrt{\sigma^2 + \varepsilon}`. What differs between the variants is
where :math:`\mu` and :math:`\sigma^2` come from. A `Moments` carries them in rows, together with
which row normalizes which example, and the way a sum over the batch becomes an average over the
examples that the numbers were taken from.
"""

from bnref.functional._moments import Moments, moments, moments_of_examples, moments_of_groups
from bnref.functional._normalize import normalize
from bnref.functional._over_replicas import over_replicas
from bnref.functional._selected_moments import masked_moments, moments_of_domains

__all__ = [
    "Moments",
    "masked_moments",
    "moments",
    "moments_of_domains",
    "moments_of_examples",
    "moments_of_groups",
    "normalize",
    "over_replicas",
]
