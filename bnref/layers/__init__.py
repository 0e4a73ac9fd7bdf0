"""The layers: the base, then one variant a file."""

from bnref.layers.batch_norm import BatchNorm
from bnref.layers.cumulative_batch_norm import CumulativeBatchNorm
from bnref.layers.debiased_batch_norm import DebiasedBatchNorm

__all__ = ["BatchNorm", "CumulativeBatchNorm", "DebiasedBatchNorm"]
