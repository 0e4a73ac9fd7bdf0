"""How each library writes batch norm down: the only place that knows one layer from another."""

import contextlib
import inspect
import math

import keras

from bnref import functional
from bnref.layers import BatchNorm
from bnref.norms._norm import Norm

FOLLOWS = "an exponential average of the batches'"
SWITCHES = "in training the batch's, at inference the population's"
FROZEN = "the population's, always: it is not trainable"


class KerasNorm(Norm):
    """``keras.layers.BatchNormalization`` of Keras 3, and what is derived from it."""

    library = "keras"
    masks = fixed = True

    @property
    def synchronized(self):
        """Whether the batches of all replicas are averaged."""
        return bool(getattr(self.layer, "synchronized", False))

    @property
    def updates(self):
        """Whether training moves the population."""
        return self.trainable

    @property
    def whose(self):
        """All examples of one batch or of all."""
        return f"all examples of {'the global' if self.synchronized else 'the replica’s'} batch"

    @property
    def remembered(self):
        """An average, unless it is not trained."""
        return FOLLOWS if self.trainable else "never"

    @property
    def used(self):
        """The batch's in training, unless it is not trained."""
        return SWITCHES if self.trainable else FROZEN

    @property
    def cancels_above(self):
        """E[x²] − E[x]² where it is synchronized; XLA may make that of two passes elsewhere."""
        return 100.0 if self.synchronized else 1000.0

    @property
    def unsynchronized_by_mask(self):
        """Keras 3 averages over the replicas where there is no mask only."""
        return self.synchronized

    @property
    def spoilt_without_example(self):
        """Keras 3 divides by the replica's own count, 0 too, unless it is synchronized."""
        return not self.synchronized

    def moments(self, x, mask=None):
        """Those of the replica's batch, or of all replicas' where the layer is synchronized."""
        own = super().moments(x, mask)
        return functional.over_replicas(own) if self.synchronized else own

    def assign(self, mean, variance):
        """Replace the population; with ``renorm=True`` the deviation that follows it too."""
        super().assign(mean, variance)
        if getattr(self.layer, "renorm", False):  # which keeps √(σ² + ε)
            self.layer.moving_stddev.assign((variance + self.epsilon) ** 0.5)


class TfKerasNorm(KerasNorm):
    """``tf_keras.layers.BatchNormalization``, which is Keras 2's and that of ``tf.layers``."""

    library = "tf_keras"
    unsynchronized_by_mask = spoilt_without_example = False

    @property
    def masks(self):
        """Whether a mask counts, which the fused kernel, that of images, does not know."""
        return not getattr(self.layer, "fused", False)

    def examples_together(self, examples):
        """A virtual batch, which TensorFlow 1's layer may cut a batch into."""
        return getattr(self.layer, "virtual_batch_size", None) or examples


class BnrefNorm(Norm):
    """A layer of `bnref.layers`, whose hooks say in their docstrings what they answer."""

    library = "bnref"
    cancels_above = math.inf  # two passes, always

    @property
    def synchronized(self):
        """Whether the batches of all replicas are averaged."""
        return self.layer._synchronized

    @property
    def masks(self):
        """Whether only what a mask selects is counted."""
        return "valid" in self.layer.extra_inputs

    @property
    def updates(self):
        """Whether training moves the population."""
        return self.trainable and self.layer._updates

    @property
    def fixed(self):
        """Whether inference is one line a channel, the same for every example."""
        return self.layer._fixed

    def examples_together(self, examples):
        """A group of the batch, where the layer cuts it into equal ones."""
        return examples / getattr(self.layer, "groups", 1)

    @property
    def whose(self):
        """What `batch_moments` answers."""
        return _answer(self.layer.batch_moments)

    @property
    def remembered(self):
        """What `update_population` answers."""
        return _answer(self.layer.update_population) if self.updates else "never"

    @property
    def used(self):
        """What the two hooks of *used when* answer."""
        hooks = self.layer.training_moments, self.layer.inference_moments
        return "; ".join(map(_answer, hooks)) if self.trainable else FROZEN

    @contextlib.contextmanager
    def remembering(self, remember):
        """Within, ``remember(moments)`` is called in place of the layer's own update.

        The layer's moments know its groups, domains, mask and replicas.
        """
        own = vars(self.layer).get("update_population")
        self.layer.update_population = remember
        try:
            yield
        finally:
            del self.layer.update_population
            if own is not None:
                self.layer.update_population = own


class OtherNorm(Norm):
    """A layer with a ``moving_mean`` that none of the above knows; it is shown and left alone."""

    @property
    def library(self):
        """The package that it comes from."""
        return type(self.layer).__module__.partition(".")[0]


def of(layer: keras.layers.Layer) -> type[Norm] | None:
    """The view for this layer, or None if it is no batch norm."""
    if isinstance(layer, BatchNorm):
        return BnrefNorm
    if isinstance(layer, keras.layers.BatchNormalization):
        return KerasNorm
    # tf_keras is not imported for this: where it is not, there is none of its layers.
    for each in type(layer).__mro__:
        if each.__module__.startswith("tf_keras.") and "BatchNormalization" in each.__name__:
            return TfKerasNorm
    return OtherNorm if getattr(layer, "moving_mean", None) is not None else None


def _answer(hook):
    """What the first line of the hook's docstring says after its question."""
    line = (inspect.getdoc(hook) or "").partition("\n")[0]
    return line.partition("?")[2].strip().rstrip(".") or "as its code says"
