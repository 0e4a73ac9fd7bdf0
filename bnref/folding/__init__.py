"""Folding batch norm into the layer before it, for inference."""

from bnref.folding._layer import fold
from bnref.folding._model import fold_model

__all__ = ["fold", "fold_model"]
