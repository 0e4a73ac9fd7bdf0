"""Passes of batches through a model: what each call of each norm was given, and what came out."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bnref.doctor._batches import Batch
from bnref.doctor._logits import Given, shaped_as_logits
from bnref.doctor._seen import Label, Seen, measured
from bnref.norms import Norm
from bnref.norms._calling import called
from bnref.population._estimators import pooled

DEEP = 50  # layers: a model of more is compiled, where each operation by itself takes its time


class Pass(NamedTuple):
    """Several batches, passed one after the other.

    Attributes
    ----------
    calls : list of list of Seen
        Of each batch, in the order of the calls; empty where only the loss was asked for.
    outputs : list of array
        Of each batch; of several outputs the first.
    losses : array, shape (B,), or None
        Mean loss of each batch, where there are targets that fit.
    """

    calls: list[list[Seen]]
    outputs: list[np.ndarray]
    losses: np.ndarray | None

    @property
    def loss(self) -> float | None:
        """The mean over the batches, or None."""
        return None if self.losses is None else float(np.mean(self.losses))

    def of(self, norm: Norm) -> list[Seen]:
        """All calls of one norm."""
        return [each for calls in self.calls for each in calls if each.norm is norm]

    @property
    def firsts(self) -> list[Seen]:
        """The first call of each batch."""
        return [calls[0] for calls in self.calls if calls]

    @property
    def told_training(self) -> list[Norm]:
        """The norms that were told, in any call, that this is training; each once, in order."""
        told = [each.norm for calls in self.calls for each in calls if each.training]
        return list(dict.fromkeys(told))


class Passing:
    """What passes one batch through the model, in one way to call it.

    Parameters
    ----------
    model : keras.Model
    norms : list of Norm
    compiled : bool
        Whether the pass is compiled, which pays for deep models only. One that cannot be is not.
    **options
        What the model is called with: ``training=True``, or nothing.
    """

    def __init__(self, model: Any, norms: list[Norm], *, compiled: bool, **options):
        self.model, self.norms, self.options = model, norms, options
        self._labels: list[tuple[Norm, Label]] = []
        self._with_logits: list[Norm] = []
        self._run = tf.function(self._pass, autograph=False) if compiled else self._pass

    def __call__(self, batch: Batch) -> tuple[list[Seen], Any, Given]:
        """What the norms saw, the outputs, and what norms put out that may be logits."""
        arguments = batch.x
        if self._run is not self._pass:
            try:
                arguments = tf.nest.map_structure(tf.convert_to_tensor, batch.x)
                measured_here, outputs, given = self._run(*arguments)
            except Exception:  # whatever code of the model's own cannot be traced: without, then
                self._run = self._pass
        if self._run is self._pass:
            measured_here, outputs, given = self._pass(*arguments)
        seen = [
            Seen(norm, *label, *(np.asarray(each) for each in tensors))
            for (norm, label), tensors in zip(self._labels, measured_here, strict=True)
        ]
        logits = zip(self._with_logits, given, strict=True)
        return seen, outputs, [(norm, np.asarray(y)) for norm, y in logits]

    def _pass(self, *arguments):
        self._labels, self._with_logits, found, given = [], [], [], []

        def note(norm, measurement, y):
            label, tensors = measurement
            self._labels.append((norm, label))
            found.append(tensors)
            if shaped_as_logits(y):
                self._with_logits.append(norm)
                given.append(y)

        with watching(self.norms, note):
            outputs = self.model(*arguments, **self.options)
        return found, outputs, given


def passed(
    passing: Passing,
    batches: Iterable[Batch],
    loss: Callable | None,
    after: Callable,
    *,
    noted: bool = True,
) -> Pass:
    """Pass batches, one after the other; ``after()`` is called after each.

    What the norms saw is not kept where ``noted`` is False: for ResNet50 it is 50 MB a pass.
    """
    calls, outputs, losses = [], [], []
    for batch in batches:
        seen, y, _ = passing(batch)
        after()
        if noted:
            calls.append(seen)
        outputs.append(first_array(y))
        if loss is not None:
            losses.append(loss(batch.y, y))
    return Pass(calls, outputs, np.array(losses) if losses else None)


@contextlib.contextmanager
def watching(norms: list[Norm], note: Callable):
    """Within, ``note`` is told of each call: the norm, what `measured` says, and the outputs."""

    def call_of(norm):
        def call(original, arguments):
            named = arguments.arguments
            found = measured(norm, arguments.args[0], named.get("training"), named.get("mask"))
            y = original(*arguments.args, **arguments.kwargs)
            note(norm, found, y)
            return y

        return call

    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(called(norm.layer, call_of(norm)))
        yield


def first_array(outputs: Any) -> np.ndarray:
    """The first of the outputs, as an array."""
    return np.asarray(tf.nest.flatten(outputs)[0])


def pooled_of(calls: list[Seen]) -> tuple[np.ndarray, np.ndarray]:
    """Moments of all calls together."""
    counts = np.array([each.values for each in calls])
    means, variances = (
        np.array([getattr(each, name) for each in calls]) for name in ("mean", "variance")
    )
    with np.errstate(invalid="ignore", over="ignore"):
        return pooled(counts, means, variances)
