"""Batch normalization in TensorFlow: every variant, every pitfall, shown by experiment."""

from bnref.layers import BatchNorm

__version__ = "0.1.0"
__all__ = ["BatchNorm"]
