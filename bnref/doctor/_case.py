"""What is known of a model and its data: each measurement is made once, when it is asked for."""

import contextlib
from functools import cached_property, partial
from typing import Any, NamedTuple

import keras
import numpy as np

from bnref.doctor._batches import Batch, Batches, regrouped, rows
from bnref.doctor._keeping import parts, same
from bnref.doctor._losses import loss_function
from bnref.doctor._passes import DEEP, Pass, Passing, first_array, passed, pooled_of
from bnref.doctor._structure import Structure
from bnref.norms import Norm
from bnref.norms._calling import called
from bnref.population._passing import acts_in_training_only, without_dropout

FEW = 4  # batches or examples, where a few are enough


class First(NamedTuple):
    """The first batch at inference."""

    outputs: Any
    given: list[tuple[Norm, np.ndarray]]  # by each norm, if it may be logits
    moved: list[str]


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
            (variable, part, part.read_value())
            for variable in model.non_trainable_variables
            for part in parts(variable)
        ]

    def restore(self) -> None:
        """Put back what passes have moved."""
        for _, part, value in self._state:
            part.assign(value)

    def _moved(self) -> list[str]:
        """The variables that have moved by now; the states of random numbers are none."""
        return [
            getattr(variable, "path", variable.name)
            for variable, part, value in self._state
            if "seed" not in variable.name and not same(part.numpy(), value.numpy())
        ]

    # Passes. In each, a batch is passed alone, from the state that the model came with.

    @cached_property
    def first(self) -> First:
        """The first batch at inference: outputs, what each norm gave, which variables moved."""
        given: list = []
        with contextlib.ExitStack() as stack:
            for norm in self.norms:
                stack.enter_context(called(norm.layer, partial(_noted, given, norm)))
            outputs = self.model(*self.batches[0].x, training=False)
        moved = self._moved()
        self.restore()
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
        return passed(passing, batches, loss, self.restore)

    @cached_property
    def training(self) -> Pass:
        """In training mode; what it remembers is forgotten again."""
        return self._passed(self._in_training, self.batches)

    @cached_property
    def inference(self) -> Pass:
        """At inference."""
        return self._passed(self._at_inference, self.batches)

    @cached_property
    def refreshed(self) -> Pass:
        """At inference by the statistics of these very batches: Precise BN, for a moment."""
        estimates = {norm: each for norm, each in self.fresh.items() if _usable(norm, *each)}
        for norm, (mean, variance) in estimates.items():
            norm.assign(mean, variance)
        try:
            return passed(self._at_inference, self.batches, self.loss, lambda: None)
        finally:
            self.restore()

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
        seen = passed(passing, [some], None, lambda: moved.extend(self._moved()))
        self.restore()
        return seen, moved

    @cached_property
    def alone(self) -> np.ndarray:
        """The outputs of two examples of the first batch, at inference, each asked by itself."""
        found = []
        for i in range(min(2, self.batches[0].size)):
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
        return passed(self._in_training, batches, self.loss, self.restore)

    def loss_with_epsilon(self, changed: list[Norm], epsilon: float) -> float:
        """The loss of some batches at inference if these norms had another ε."""
        before = [norm.layer.epsilon for norm in changed]
        try:
            for norm in changed:
                norm.layer.epsilon = epsilon
            passing = self._passing([], training=False)
            seen = passed(passing, self.batches[:FEW], self.loss, self.restore)
        finally:
            for norm, value in zip(changed, before, strict=True):
                norm.layer.epsilon = value
        return float(seen.loss)  # type: ignore[arg-type]

    @cached_property
    def _traced(self) -> dict[int, list[Any]]:
        """Which layers' outputs each layer was given, by the layer's id: of one example's pass."""
        makers: dict[int, Any] = {}
        given: dict[int, list[Any]] = {}
        held = []  # an id is that of one tensor as long as the tensor is there

        def call(layer, original, arguments):
            maker = makers.get(id(arguments.args[0])) if arguments.args else None
            if maker is not None:
                given.setdefault(id(layer), []).append(maker)
            y = original(*arguments.args, **arguments.kwargs)
            held.append(y)
            makers[id(y)] = layer
            return y

        with contextlib.ExitStack() as stack:
            for _, layer in self.layers:
                if not list(layer._flatten_layers(include_self=False, recursive=False)):
                    stack.enter_context(called(layer, partial(call, layer)))
            self.model(*rows(self.batches[0].x, 0, 1), training=False)
        self.restore()
        return given

    def before(self, layer: Any) -> Any:
        """The layer that a layer's input comes from; None where it is not one alone, or not known.

        As a pass shows it, in a subclass too; not seen where a cast to another precision, or an
        operation that is no layer, lies between the two.
        """
        found = {id(each): each for each in self._traced.get(id(layer), [])}
        return next(iter(found.values())) if len(found) == 1 else None

    def source(self, norm: Norm) -> Any:
        """The layer before a norm, as `before`, or as the graph of layers has it."""
        found = self.before(norm.layer)
        if found is None and len(norm.sources) == 1:
            found = norm.sources[0]
        return found

    @cached_property
    def on_logits(self) -> Norm | None:
        """The norm whose outputs are the logits of a classifier, or None.

        Its outputs are those of the model, or become them by a softmax or a sigmoid; and the loss
        is one for classes.
        """
        y, targets = first_array(self.first.outputs), self.batches[0].y
        classes = targets is not None and np.asarray(targets).dtype.kind in "iub"
        for norm, each in reversed(self.first.given):
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


def _usable(norm, mean, variance):
    """Whether moments can be the population of a norm."""
    return norm.fixed and np.isfinite(mean).all() and np.isfinite(variance).all()


def _noted(outputs, norm, original, arguments):
    y = original(*arguments.args, **arguments.kwargs)
    if len(y.shape) == 2:  # only what may be logits
        outputs.append((norm, np.asarray(y)))
    return y
