"""What is known of a model and its data: each measurement is made once, when it is asked for."""

from functools import cached_property
from typing import Any

import numpy as np

from bnref.doctor._alikeness import Alike, most_alike
from bnref.doctor._batches import rows
from bnref.doctor._logits import norm_on_logits
from bnref.doctor._modes import Modes
from bnref.doctor._passes import Pass, first_array, passed, pooled_of
from bnref.doctor._tracing import only_one, traced
from bnref.norms import Norm


class Case(Modes):
    """A model under examination; the checks read it, and measure nothing themselves.

    Every measurement leaves the variables as they were before it. What it is made of: `Structure`,
    what can be read; `Modes`, the passes; and here, what the passes say.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
    data, validation : Batches, or None for the second
    loss : see `bnref.doctor.examine`
    """

    @cached_property
    def fresh(self) -> dict[Norm, tuple[np.ndarray, np.ndarray]]:
        """Mean and variance of each norm's inputs, over all batches and calls, in training mode."""
        return {norm: pooled_of(self.training.of(norm)) for norm in self.norms if self.in_use(norm)}

    @cached_property
    def refreshed(self) -> Pass:
        """At inference by the statistics of these very batches, Precise BN; the losses alone."""
        estimates = {norm: each for norm, each in self.fresh.items() if _usable(norm, *each)}
        for norm, (mean, variance) in estimates.items():
            norm.assign(mean, variance)
        try:
            return passed(self._at_inference, self.batches, self.loss, lambda: None, noted=False)
        finally:
            self._start.restore()

    def in_use(self, norm: Norm) -> bool:
        """Whether the norm was called, and has one population of known channels."""
        calls = self.training.of(norm)
        return bool(calls) and norm.mean is not None and norm.mean.shape == calls[0].means.shape[1:]

    @cached_property
    def served(self) -> list[Norm]:
        """The norms that are in use, and at inference one line a channel by their population."""
        return [norm for norm in self.norms if norm.fixed and self.in_use(norm)]

    @cached_property
    def followers(self) -> list[Norm]:
        """Those whose population follows in training, and serves inference."""
        return [n for n in self.served if n.updates and self.training.of(n)[0].training]

    @cached_property
    def alike(self) -> Alike | None:
        """The norm whose batches hold the examples that are most alike; None if too few to tell."""
        calls = {norm: self.inference.of(norm) for norm in self.norms}
        return most_alike(calls, len(self.batches))

    @cached_property
    def _traced(self) -> dict[int, list[Any]]:
        found = traced(self.model, self.layers, rows(self.batches[0].x, 0, 1))
        self._start.restore()
        return found

    def before(self, layer: Any) -> Any:
        """The layer that a layer's input comes from; None where it is not one alone, or not known.

        As a pass of one example shows it; not seen where a cast to another precision, or an
        operation that is no layer, lies between the two.
        """
        return only_one(self._traced.get(id(layer), []))

    def source(self, norm: Norm) -> Any:
        """The layer before a norm, as `before`, or as the graph of layers has it."""
        found = self.before(norm.layer)
        if found is None and len(norm.sources) == 1:
            found = norm.sources[0]
        return found

    @cached_property
    def on_logits(self) -> Norm | None:
        """The norm whose outputs are the logits of a classifier, or None."""
        first = self.first
        return norm_on_logits(first.given, first_array(first.outputs), self.batches[0].y)


def _usable(norm, mean, variance):
    """Whether moments can be the population of a norm."""
    return norm.fixed and np.isfinite(mean).all() and np.isfinite(variance).all()
