"""Batch normalization in TensorFlow: every variant, every pitfall, shown by experiment."""

import importlib.metadata

from bnref import (
    _backend,  # noqa: F401  first: it refuses other backends of Keras
    conventions,
    devices,
    doctor,
    folding,
    functional,
    moving_average,
    norms,
    population,
    tf1,
    training,
    workers,
)
from bnref.layers import (
    BatchNorm,
    BatchRenorm,
    CumulativeBatchNorm,
    DebiasedBatchNorm,
    DomainBatchNorm,
    ExampleWeighingBatchNorm,
    FrozenBatchNorm,
    GhostBatchNorm,
    LasagneBatchNorm,
    MaskedBatchNorm,
    PooledBatchNorm,
    ReplicaMeanBatchNorm,
    SyncBatchNorm,
    UntrackedBatchNorm,
)

__version__ = importlib.metadata.version("bnref")
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
    "conventions",
    "devices",
    "doctor",
    "folding",
    "functional",
    "moving_average",
    "norms",
    "population",
    "tf1",
    "training",
    "workers",
]
