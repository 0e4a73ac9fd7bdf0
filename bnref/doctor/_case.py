"""What is known of a model and its data: each measurement is made once, when it is asked for."""

import contextlib
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np

from bnref.doctor._batches import Batches, regrouped, rows
from bnref.doctor._keeping import parts
from bnref.doctor._losses import loss_function
from bnref.doctor._passes import Pass, first_array, passed, pooled_of
from bnref.doctor._structure import Structure
from bnref.norms import Norm
from bnref.norms._calling import called
from bnref.population._passing import acts_in_training_only, without_dropout


class Case(Structure):
    """A model under examination; the checks read it, and measure nothing themselves.

    Every measurement leaves the variables as they were before it.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
    data, validation : Batches, or None for the second
    loss : see `bnref.doctor.examine`
    """

    def __init__(self, model: Any, data: Batches, validation: Batches | None, loss: Any):
        super().__init__(model)
        self.data, self.validation = data, validation
        self.batches = data.batches
        self._loss = loss
        self._state = [
            (variable, part, part.numpy())
            for variable in model.non_trainable_variables
            for part in parts(variable)
        ]

    def restore(self) -> None:
        """Put back what passes have moved."""
        for _, part, value in self._state:
            part.assign(value)

    @cached_property
    def loss(self):
        """A function of (y, outputs), or None."""
        batch = self.batches[0]
        outputs = self.model(*batch.x, training=False)
        self.restore()
        return loss_function(self.model, self._loss, batch.y, outputs)

    # Passes. In each, a batch is passed alone, from the state that the model came with.

    def _passed(self, batches, **options) -> Pass:
        loss = self.loss if all(each.y is not None for each in batches) else None
        return passed(self.model, self.norms, batches, loss, after=self.restore, **options)

    @cached_property
    def training(self) -> Pass:
        """In training mode; what it remembers is forgotten again."""
        return self._passed(self.batches, training=True)

    @cached_property
    def inference(self) -> Pass:
        """At inference."""
        return self._passed(self.batches, training=False)

    @cached_property
    def undropped(self) -> Pass | None:
        """In training mode without dropout, noise and augmentation; None where there are none."""
        if not acts_in_training_only(self.model):
            return None
        with without_dropout(self.model):
            return self._passed(self.batches, training=True)

    @cached_property
    def refreshed(self) -> Pass:
        """At inference by the statistics of these very batches: Precise BN, for a moment."""
        with self.population(self.fresh):
            return passed(self.model, [], self.batches, self.loss, training=False)

    @cached_property
    def validated(self) -> Pass | None:
        """The validation data, at inference; None where there are none."""
        if self.validation is None:
            return None
        return self._passed(self.validation.batches, training=False)

    @cached_property
    def untold(self) -> Pass:
        """The first batch, as ``model(x)`` is called where nobody says ``training``."""
        return self._passed(self.batches[:1])

    @cached_property
    def moved(self) -> dict[str, list[str]]:
        """The variables that move where nothing is trained: in ``model(x)``, at inference."""
        found = {}
        for name, options in {
            "model(x)": {},
            "model(x, training=False)": {"training": False},
        }.items():
            self.model(*self.batches[0].x, **options)
            found[name] = [
                getattr(variable, "path", variable.name)
                for variable, part, value in self._state
                if "seed" not in variable.name
                and not np.array_equal(part.numpy(), value, equal_nan=value.dtype.kind == "f")
            ]
            self.restore()
        return found

    @cached_property
    def alone(self) -> np.ndarray:
        """The outputs of four examples of the first batch, at inference, each asked by itself."""
        found = []
        for i in range(min(4, self.batches[0].size)):
            x = rows(self.batches[0].x, i, i + 1)
            found.append(first_array(self.model(*x, training=False)))
            self.restore()
        return np.concatenate(found)

    @cached_property
    def regrouped(self) -> Pass | None:
        """In training mode, the same examples in other company; None without targets."""
        batches = regrouped(self.batches)
        if batches is None or self.loss is None:
            return None
        return passed(self.model, [], batches, self.loss, after=self.restore, training=True)

    def loss_with_epsilon(self, changed: list[Norm], epsilon: float) -> float:
        """The loss at inference if these norms had another ε."""
        before = [norm.layer.epsilon for norm in changed]
        try:
            for norm in changed:
                norm.layer.epsilon = epsilon
            seen = passed(self.model, [], self.batches, self.loss, training=False)
        finally:
            for norm, value in zip(changed, before, strict=True):
                norm.layer.epsilon = value
        return float(seen.loss)  # type: ignore[arg-type]

    @cached_property
    def on_logits(self) -> Norm | None:
        """The norm whose outputs are the logits of a classifier, or None.

        Its outputs are those of the model, or become them by a softmax or a sigmoid; and the loss
        is one for classes.
        """
        outputs: list = []
        with contextlib.ExitStack() as stack:
            for norm in self.norms:
                stack.enter_context(called(norm.layer, partial(_noted, outputs, norm)))
            y = first_array(self.model(*self.batches[0].x, training=False))
        self.restore()
        targets = self.batches[0].y
        classes = targets is not None and np.asarray(targets).dtype.kind in "iub"
        for norm, each in reversed(outputs):
            if each.shape != y.shape or y.ndim != 2 or y.shape[1] < 2:
                continue
            softmax = np.allclose(keras.ops.softmax(each), y, atol=1e-5)
            sigmoid = np.allclose(keras.ops.sigmoid(each), y, atol=1e-5)
            if softmax or sigmoid or (classes and np.allclose(each, y, atol=1e-5)):
                return norm
        return None

    # Statistics.

    @cached_property
    def fresh(self) -> dict[Norm, tuple[np.ndarray, np.ndarray]]:
        """Mean and variance of each norm's inputs, over all batches and calls, in training mode."""
        return {norm: pooled_of(self.training.of(norm)) for norm in self.norms if self.in_use(norm)}

    def in_use(self, norm: Norm) -> bool:
        """Whether the norm was called, and has one population of known channels."""
        calls = self.training.of(norm)
        return bool(calls) and norm.mean is not None and norm.mean.shape == calls[0].means.shape[1:]

    @cached_property
    def followers(self) -> list[Norm]:
        """The norms that are in use, whose population follows in training and serves inference."""
        return [
            norm
            for norm in self.norms
            if norm.updates
            and norm.fixed
            and self.in_use(norm)
            and self.training.of(norm)[0].training
        ]

    @contextlib.contextmanager
    def population(self, estimates):
        """Within, the norms have another population, given as mean and variance."""
        try:
            for norm, (mean, variance) in estimates.items():
                if norm.fixed and np.isfinite(mean).all() and np.isfinite(variance).all():
                    norm.assign(mean, variance)
            yield
        finally:
            self.restore()


def _noted(outputs, norm, original, **arguments):
    y = original(**arguments)
    outputs.append((norm, np.asarray(y)))
    return y
