"""Batch normalization in TensorFlow: every variant, every pitfall, shown by experiment."""

from bnref import (
    benchmark,
    datasets,
    devices,
    functional,
    graph,
    models,
    population,
    records,
    training,
)
from bnref.layers import BatchNorm, CumulativeBatchNorm, DebiasedBatchNorm

__version__ = "0.1.0"
__all__ = [
    "BatchNorm",
    "CumulativeBatchNorm",
    "DebiasedBatchNorm",
    "benchmark",
    "datasets",
    "devices",
    "functional",
    "graph",
    "models",
    "population",
    "records",
    "training",
]
