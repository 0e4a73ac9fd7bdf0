"""The layers of bnref, Keras 3 and tf_keras, called as one calls a layer in a loop of one's own."""

import importlib
import tempfile
from typing import Any

import tensorflow as tf

from bnref_gallery.conformance.asking import Implementation, Outcome, Step
from bnref_gallery.conformance.replicas import differentiated_along, everywhere, strategy_of

__all__ = ["KerasLayer"]


class KerasLayer(Implementation):
    """A layer alone in a `Sequential`, in `strategy.scope()` where there are replicas.

    What is saved is what `model.save` writes and `load_model` reads, without replicas.
    """

    double = {"dtype": "float64"}
    switches = {"trainable=False": "layer", "training=False": "call"}

    def __init__(
        self, distribution: str, path: str, *, library: str = "keras", **given: Any
    ) -> None:
        self.distributions = (distribution, "tensorflow")
        self.path, self.library, self.given = path, library, given
        self.synchronized = given.get("synchronized", path.endswith(".SyncBatchNorm"))

    def mixed(self, kind: str) -> dict:
        """The policy: outputs in 16 bits, variables in float32."""
        return {"dtype": f"mixed_{kind}"}

    def run(self, step: Step) -> Outcome:
        """Train by `strategy.run` under `tf.function`, or eagerly on one device."""
        library = importlib.import_module(self.library)
        module, _, name = self.path.rpartition(".")
        make = getattr(importlib.import_module(module), name)
        with strategy_of(len(step.parts)).scope():
            layer = make(**self.given, **self.options(step))
            model = library.Sequential([layer])
            model.build((None, *step.parts[0].shape[1:]))
            if step.start is not None:
                layer.moving_mean.assign(step.start[0])
                layer.moving_variance.assign(step.start[1])
        layer.trainable = step.switch != "trainable=False"

        def train(x, dy, mask):
            masked = {} if mask is None else {"mask": mask}
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=step.switch != "training=False", **masked)
            return y, (None if dy is None else tape.gradient(y, x, tf.cast(dy, y.dtype)))

        dx = along = None
        if step.direction is not None:
            y, along = everywhere(
                lambda *given: differentiated_along(lambda x: layer(x, training=True), *given),
                step.parts, step.weights, step.direction,
            )  # fmt: skip
        elif step.dy is None:
            (y,) = everywhere(lambda x, mask: train(x, None, mask)[:1], step.parts, step.masks)
        else:
            y, dx = everywhere(train, step.parts, step.dy, step.masks)
        evaluated = None
        if step.then is not None:
            copies = [step.then] * len(step.parts)
            (evaluated,) = everywhere(lambda x: (layer(x, training=False),), copies)
        if len(step.parts) > 1:
            layer = saved_and_loaded(library, model)
        kept = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        return Outcome(y, dx, *kept, evaluated, along)


def saved_and_loaded(library, model):
    """The model's only layer, as one device finds it in the file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        return library.models.load_model(f"{folder}/model.keras", compile=False).layers[-1]
