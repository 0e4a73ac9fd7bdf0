"""What layers add to the loss in a pass: activity regularizers, and ``add_loss``."""

import contextlib
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

# From here on Keras divides what an activity regularizer gives by the number of examples.
AVERAGED_SINCE = (3, 14)


def refuse_sums(model: keras.Model, parts: int) -> None:
    """Refuse activity regularizers in a batch of several parts where Keras adds up the examples.

    The parts of a batch, on replicas or accumulated, are put together as means. ValueError names
    the first layer.
    """
    version = tuple(int(each) for each in keras.__version__.split(".")[:2])
    if parts == 1 or version >= AVERAGED_SINCE:
        return
    for layer in model._flatten_layers():
        if getattr(layer, "activity_regularizer", None) is not None:
            since = ".".join(map(str, AVERAGED_SINCE))
            raise ValueError(
                "model must not have an activity regularizer on several replicas or with "
                f"accumulation before Keras {since}, which then averages it over the examples; "
                f"received one in layer {layer.path!r} with Keras {keras.__version__}"
            )


class AddedLosses:
    """The losses that a model's layers add, kept apart for each replica.

    Keras keeps them in one list a layer, which the threads of several replicas would share.

    Parameters
    ----------
    model : keras.Model
    """

    def __init__(self, model):
        self.model = model
        # Each replica is traced in a thread of its own.
        self._own = threading.local()

    @contextlib.contextmanager
    def kept_apart(self) -> Iterator[None]:
        """Within, what layers add goes to the replica that they are called on."""
        layers = list(self.model._flatten_layers())
        for layer in layers:
            layer.add_loss = self._add
        try:
            yield
        finally:
            for layer in layers:
                del layer.add_loss

    def _add(self, loss):
        self._own.losses.extend(tf.nest.flatten(loss))

    def of_pass(self, inputs):
        """The output of a training pass on this replica, and the sum of what was added in it.

        The sum is taken for a mean over the examples, as that of an activity regularizer is, or for
        something that does not depend on them. Of no example there is no mean: 0.
        """
        self._own.losses = []
        output = self.model(inputs, training=True)
        if not self._own.losses:
            return output, 0.0
        added = tf.add_n([tf.cast(each, tf.float32) for each in self._own.losses])
        some = tf.size(tf.nest.flatten(inputs)[0]) > 0
        return output, tf.where(some, added, 0.0)
