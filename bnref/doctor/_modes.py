"""The passes that are made of a model and its batches, in each way that a model is called."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bnref.doctor._batches import Batch, Batches, regrouped, rows
from bnref.doctor._keeping import Start
from bnref.doctor._logits import Given
from bnref.doctor._losses import loss_function
from bnref.doctor._passes import DEEP, Pass, Passing, first_array, passed
from bnref.doctor._saving import Reloaded, reloaded
from bnref.doctor._structure import Structure
from bnref.norms import Norm
from bnref.population._passing import acts_in_training_only, without_dropout

FEW = 4  # batches or examples, where a few are enough


class First(NamedTuple):
    """The first batch at inference: outputs, what norms put out, the variables that moved."""

    outputs: Any
    given: Given
    moved: list[str]


class Modes(Structure):
    """The passes of a `Case`, each made once, when it is asked for.

    In each a batch is passed alone, from the state that the model came with, which is put back.
    """

    def __init__(self, model: Any, data: Batches, validation: Batches | None, loss: Any):
        super().__init__(model)
        self.data, self.validation = data, validation
        self.batches = data.batches
        self._loss = loss
        self._start = Start(model)

    @cached_property
    def first(self) -> First:
        """The first batch at inference: outputs, what each norm gave, which variables moved."""
        _, outputs, given = self._at_inference(self.batches[0])
        moved = self._start.moved()
        self._start.restore()
        return First(outputs, given, moved)

    @cached_property
    def loss(self):
        """A function of (y, outputs), or None."""
        return loss_function(self.model, self._loss, self.batches[0].y, self.first.outputs)

    def _passing(self, norms, **options):
        return Passing(self.model, norms, compiled=len(self.layers) > DEEP, **options)

    @cached_property
    def _in_training(self):
        return self._passing(self.norms, training=True)

    @cached_property
    def _at_inference(self):
        return self._passing(self.norms, training=False)

    def _passed(self, passing, batches) -> Pass:
        loss = self.loss if all(each.y is not None for each in batches) else None
        return passed(passing, batches, loss, self._start.restore)

    @cached_property
    def training(self) -> Pass:
        """In training mode; what it remembers is forgotten again."""
        return self._passed(self._in_training, self.batches)

    @cached_property
    def inference(self) -> Pass:
        """At inference."""
        return self._passed(self._at_inference, self.batches)

    @cached_property
    def undropped(self) -> Pass | None:
        """Some batches in training mode without dropout, noise and augmentation; None without any.

        A few are enough: the same batches with and without are compared.
        """
        if not acts_in_training_only(self.model):
            return None
        with without_dropout(self.model):
            passing = self._passing(self.norms, training=True)
            return self._passed(passing, self.batches[:FEW])

    @cached_property
    def validated(self) -> Pass | None:
        """The validation data, at inference; None where there are none."""
        if self.validation is None:
            return None
        return self._passed(self._at_inference, self.validation.batches)

    @cached_property
    def untold(self) -> tuple[Pass, list[str]]:
        """Some examples as ``model(x)``, where nobody says ``training``; and what moved."""
        moved: list[str] = []
        passing = Passing(self.model, self.norms, compiled=False)
        some = Batch(rows(self.batches[0].x, 0, FEW), None, min(FEW, self.batches[0].size))
        seen = passed(passing, [some], None, lambda: moved.extend(self._start.moved()))
        self._start.restore()
        return seen, moved

    @cached_property
    def alone(self) -> np.ndarray:
        """The outputs of two examples of the first batch, at inference, each asked by itself."""
        found = []
        for i in range(min(2, self.batches[0].size)):
            x = rows(self.batches[0].x, i, i + 1)
            found.append(first_array(self.model(*x, training=False)))
            self._start.restore()
        return np.concatenate(found)

    @cached_property
    def reloaded(self) -> Reloaded:
        """The model as it comes back from a file, and its outputs for some examples.

        Raises `ReloadError` where it does not come back.
        """
        try:
            return reloaded(self.model, rows(self.batches[0].x, 0, FEW))
        finally:
            self._start.restore()

    @cached_property
    def regrouped(self) -> Pass | None:
        """The same examples in other company, in training mode: losses. None without targets."""
        batches = regrouped(self.batches)
        if batches is None or self.loss is None:
            return None
        after = self._start.restore
        return passed(self._in_training, batches, self.loss, after, noted=False)

    def with_epsilon(self, changed: list[Norm], epsilon: float) -> Pass:
        """Some batches in training mode, if these norms had another ε."""
        before = [norm.layer.epsilon for norm in changed]
        try:
            for norm in changed:
                norm.layer.epsilon = epsilon
            passing = self._passing(self.norms, training=True)
            return passed(passing, self.batches[:FEW], None, self._start.restore)
        finally:
            for norm, value in zip(changed, before, strict=True):
                norm.layer.epsilon = value
