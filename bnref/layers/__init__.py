"""The layers: the base, then one variant a file."""

from bnref.layers.batch_norm import BatchNorm
from bnref.layers.batch_renorm import BatchRenorm
from bnref.layers.cumulative_batch_norm import CumulativeBatchNorm
from bnref.layers.debiased_batch_norm import DebiasedBatchNorm
from bnref.layers.domain_batch_norm import DomainBatchNorm
from bnref.layers.example_weighing_batch_norm import ExampleWeighingBatchNorm
from bnref.layers.frozen_batch_norm import FrozenBatchNorm
from bnref.layers.ghost_batch_norm import GhostBatchNorm
from bnref.layers.lasagne_batch_norm import LasagneBatchNorm
from bnref.layers.masked_batch_norm import MaskedBatchNorm
from bnref.layers.pooled_batch_norm import PooledBatchNorm
from bnref.layers.replica_mean_batch_norm import ReplicaMeanBatchNorm
from bnref.layers.sync_batch_norm import SyncBatchNorm
from bnref.layers.untracked_batch_norm import UntrackedBatchNorm

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "CumulativeBatchNorm",
    "DebiasedBatchNorm",
    "DomainBatchNorm",
    "ExampleWeighingBatchNorm",
    "FrozenBatchNorm",
    "GhostBatchNorm",
    "LasagneBatchNorm",
    "MaskedBatchNorm",
    "PooledBatchNorm",
    "ReplicaMeanBatchNorm",
    "SyncBatchNorm",
    "UntrackedBatchNorm",
]
