"""What is known of a model and its data: each measurement is made once, when it is first asked for."""

import contextlib
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnref import norms as _norms
from bnref.doctor._batches import Batch, Batches
from bnref.doctor._keeping import parts
from bnref.doctor._losses import loss_function
from bnref.doctor._passes import Pass, Seen, first_array, passed
from bnref.norms import Norm
from bnref.norms._calling import called
from bnref.norms._finding import sources, walk
from bnref.population._estimators import pooled
from bnref.population._passing import acts_in_training_only, without_dropout


class Case:
    """A model under examination; the checks read it, and measure nothing themselves.

    Every measurement leaves the variables as they were before it.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
    data, validation : Batches, or None for the second
    loss : see `bnref.doctor.examine`
    """

    def __init__(self, model: Any, data: Batches, validation: Batches | None, loss: Any):
        self.model, self.data, self.validation = model, data, validation
        self.norms: list[Norm] = _norms.find(model)
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
        for name, options in {"model(x)": {}, "model(x, training=False)": {"training": False}}.items():
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
        rows = []
        for i in range(min(4, self.batches[0].size)):
            x = _rows(self.batches[0].x, i, i + 1)
            rows.append(first_array(self.model(*x, training=False)))
            self.restore()
        return np.concatenate(rows)

    @cached_property
    def regrouped(self) -> Pass | None:
        """In training mode, the same examples in other company; None without targets."""
        batches = regrouped(self.batches)
        if batches is None or self.loss is None:
            return None
        return passed(
            self.model, [], batches, self.loss, after=self.restore, training=True
        )

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
        return bool(calls) and norm.built and tuple(norm.mean.shape) == calls[0].means.shape[1:]

    @cached_property
    def followers(self) -> list[Norm]:
        """The norms that are in use, whose population follows in training and serves inference."""
        return [
            norm
            for norm in self.norms
            if norm.updates and norm.fixed and self.in_use(norm) and self.training.of(norm)[0].training
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

    # Structure.

    @property
    def replicas(self) -> int:
        """How many replicas the model is trained on."""
        strategy = getattr(self.model, "distribute_strategy", None)
        return 1 if strategy is None else int(strategy.num_replicas_in_sync)

    @property
    def optimizer(self) -> Any:
        """The model's, or None where it is not compiled."""
        return getattr(self.model, "optimizer", None)

    @cached_property
    def steps(self) -> int | None:
        """How many steps the optimizer has made; None where it is not known."""
        iterations = getattr(self.optimizer, "iterations", None)
        return None if iterations is None else int(np.asarray(iterations)) or None

    def source(self, norm: Norm) -> Any:
        """The layer before a norm, where there is one only; None where it is not known."""
        found = sources(norm.layer)
        return found[0] if len(found) == 1 else None

    @cached_property
    def layers(self) -> list[tuple[str, Any]]:
        """All layers with their paths."""
        return list(walk(self.model))


def pooled_of(calls: list[Seen]) -> tuple[np.ndarray, np.ndarray]:
    """Moments of all calls together."""
    counts = np.array([each.count for each in calls])
    means, variances = (
        np.array([getattr(each, name) for each in calls]) for name in ("mean", "variance")
    )
    with np.errstate(invalid="ignore", over="ignore"):
        return pooled(counts, means, variances)


def regrouped(batches: list[Batch]) -> list[Batch] | None:
    """The same examples at random in batches of the same size; None if they cannot be.

    Each new batch takes its examples from all old ones, as far as there are enough of them.
    """
    if len(batches) < 4 or any(each.y is None for each in batches):
        return None
    size = batches[0].size
    order = np.random.default_rng(0).permutation(size * len(batches))

    def mixed(*arrays):
        return np.concatenate([np.asarray(each) for each in arrays])[order]

    x, y = (tf.nest.map_structure(mixed, *parts) for parts in zip(*[b[:2] for b in batches], strict=True))
    starts = range(0, size * len(batches), size)
    return [Batch(_rows(x, i, i + size), _rows(y, i, i + size), size) for i in starts]


def _noted(outputs, norm, original, **arguments):
    y = original(**arguments)
    outputs.append((norm, np.asarray(y)))
    return y


def _rows(x, start, end):
    return tf.nest.map_structure(lambda each: each[start:end], x)
