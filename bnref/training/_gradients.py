"""What becomes of the replicas' gradients before the optimizer, which adds them up, gets them."""

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf


def summed(*gradients):
    """Sum of gradients; None if all are None, as for a weight that is not used."""
    found = [each for each in gradients if each is not None]
    return tf.add_n(found) if len(found) > 1 else next(iter(found), None)


def spoilt_together(gradients):
    """NaN on every replica if a gradient of any is not finite, so that all leave out the step.

    Keras's LossScaleOptimizer looks at the gradients of one replica only.
    """
    found = [each for each in gradients if each is not None]
    spoilt = [tf.reduce_any(~tf.math.is_finite(each)) for each in found]
    number = tf.add_n([tf.cast(each, tf.float32) for each in spoilt])
    number = tf.distribute.get_replica_context().all_reduce("sum", number)
    fault = tf.where(number > 0, np.nan, 0.0)
    return [each if each is None else each + tf.cast(fault, each.dtype) for each in gradients]


class Clipping:
    """The clipping that an optimizer was made with, of the whole gradient of several replicas.

    Keras clips each replica's share, before it adds them up: shares that point different ways are
    long though their sum is short, so that another step comes out than on one device. Here the sum
    is clipped, and each replica gets an equal share of that, for the optimizer to add up. It is one
    more sum over the replicas, for those who clip.

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        With ``LossScaleOptimizer`` the bound is scaled as the loss is.
    """

    def __init__(self, optimizer):
        self.optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self.scale = getattr(optimizer, "dynamic_scale", None)
        names = "clipnorm", "global_clipnorm", "clipvalue"  # of which Keras accepts one
        bounds = {name: getattr(self.optimizer, name, None) for name in names}
        self.bounds = {name: bound for name, bound in bounds.items() if bound}

    @contextlib.contextmanager
    def taken_over(self) -> Iterator[None]:
        """Within, the optimizer does not clip by itself what it is given."""
        for name in self.bounds:
            setattr(self.optimizer, name, None)
        try:
            yield
        finally:
            for name, bound in self.bounds.items():
                setattr(self.optimizer, name, bound)

    def __call__(self, gradients):
        """On a replica: its share of the whole gradient, clipped."""
        if not self.bounds:
            return gradients
        replica = tf.distribute.get_replica_context()
        found = [tf.convert_to_tensor(each) for each in gradients if each is not None]
        whole = iter(self._clipped(replica.all_reduce("sum", found)))
        return [
            each if each is None else next(whole) / replica.num_replicas_in_sync
            for each in gradients
        ]

    def _clipped(self, gradients):
        ((name, bound),) = self.bounds.items()
        bound = bound if self.scale is None else bound * tf.convert_to_tensor(self.scale.value)
        if name == "global_clipnorm":
            return tf.clip_by_global_norm(gradients, bound)[0]
        if name == "clipnorm":
            return [tf.clip_by_norm(each, bound) for each in gradients]
        return [tf.clip_by_value(each, -bound, bound) for each in gradients]
