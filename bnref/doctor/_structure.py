"""What can be read of a model without passing anything through it."""

from functools import cached_property
from typing import Any

import numpy as np

from bnref.norms import Norm, find
from bnref.norms._finding import walk
from bnref.norms._model_libraries import fit_says_training


class Structure:
    """Layers, norms, optimizer and replicas of a model."""

    def __init__(self, model: Any):
        self.model = model
        found = find(model)
        self.norms: list[Norm] = [norm for norm in found if norm.whose != "unknown"]
        self.unknown = [norm for norm in found if norm.whose == "unknown"]

    @property
    def replicas(self) -> int:
        """How many replicas the model is trained on."""
        strategy = getattr(self.model, "distribute_strategy", None)
        return 1 if strategy is None else int(strategy.num_replicas_in_sync)

    @property
    def optimizer(self) -> Any:
        """The model's, or None where it is not compiled."""
        return getattr(self.model, "optimizer", None)

    @property
    def fit_says_training(self) -> bool:
        """Whether ``fit``, if it trains the model, tells it so."""
        return fit_says_training(self.model)

    @cached_property
    def steps(self) -> int | None:
        """How many steps the optimizer has made; None where it is not known."""
        iterations = getattr(self.optimizer, "iterations", None)
        return None if iterations is None else int(np.asarray(iterations)) or None

    @cached_property
    def layers(self) -> list[tuple[str, Any]]:
        """All layers with their paths."""
        return list(walk(self.model))
