"""Metrics of Keras, and one's own, counted over all replicas as on one device."""

from collections import Counter

import keras
import numpy as np
import tensorflow as tf


class Metrics:
    """Metrics that are counted in one place, whatever the number of replicas.

    A metric's own state may be anything, a largest value for instance, which Keras would add up
    over the replicas. Here each process counts the outputs of all.

    Parameters
    ----------
    given : metric, function, or a list or dictionary of such
        As for `bnref.training.Run.evaluate`.
    """

    def __init__(self, given):
        self._given = _as_metrics(given)
        self.all = [each for each in tf.nest.flatten(self._given) if each is not None]
        if wrong := [each for each in self.all if not isinstance(each, keras.metrics.Metric)]:
            raise ValueError(
                "metrics must be Keras metrics or functions (y, output), in a list or in the "
                f"structure of the model's outputs; received {type(wrong[0]).__name__}"
            )
        names = Counter(each.name for each in self.all)
        if twice := [name for name, number in names.items() if number > 1]:
            raise ValueError(
                f"metrics must have names of their own; received {names[twice[0]]} that are called "
                f"{twice[0]!r}: give them a name="
            )
        for each in self.all:
            if any(isinstance(v.value, tf.distribute.DistributedValues) for v in each.variables):
                raise ValueError(
                    "metrics must be made outside of the strategy's scope, as they are counted in "
                    f"one place; received {each.name!r} made inside"
                )

    def of(self, results):
        """The metrics by name, over batches; they are reset before and after.

        Parameters
        ----------
        results : iterable of (y, output) or (y, output, weights)
        """
        self._reset()
        try:
            for y, output, *weights in results:
                for metric, key in _with_keys(self._given, output):
                    own = (y, output) if key is None else (y[key], output[key])
                    metric.update_state(*own, *weights)
            found = {each.name: each.result() for each in self.all}
            return {name: _as_numbers(value) for name, value in found.items()}
        finally:
            self._reset()

    def _reset(self):
        for each in self.all:
            each.reset_state()


def gathered_outputs(strategy, values):
    """The rows of all replicas of all workers, one replica's after the other's, on each worker."""
    if strategy.num_replicas_in_sync == 1:
        return values
    return tf.nest.map_structure(lambda each: strategy.gather(each, axis=0), values)


def transportable(values):
    """The same on a replica, in types that TensorFlow gathers from several workers."""

    def cast(value):
        value = tf.convert_to_tensor(value)
        if value.dtype.is_floating:
            return tf.cast(value, tf.float32) if value.dtype.size < 4 else value
        return tf.cast(value, tf.int64)

    return tf.nest.map_structure(cast, values)


def _as_metrics(given):
    """The same structure, with metrics in place of functions."""
    if isinstance(given, keras.metrics.Metric) or given is None:
        return given
    if isinstance(given, dict):
        return {name: _as_metrics(each) for name, each in given.items()}
    if isinstance(given, list | tuple):
        return [_as_metrics(each) for each in given]
    if not callable(given):
        return given
    return keras.metrics.MeanMetricWrapper(given, name=getattr(given, "__name__", "function"))


def _with_keys(given, output):
    """Each metric with the key of its output; None for one that is given all of them."""
    if isinstance(given, keras.metrics.Metric):
        return [(given, None)]
    if tf.is_tensor(output):
        if isinstance(given, dict):
            raise ValueError("metrics must be in a list for a model of one output; received dict")
        return [(each, None) for each in tf.nest.flatten(given)]
    keys = list(output) if isinstance(output, dict) else list(range(len(output)))
    matched = isinstance(given, dict) == isinstance(output, dict)
    found = given if isinstance(given, dict) else dict(enumerate(given))
    if (
        not matched
        or set(found) - set(keys)
        or (isinstance(given, list) and len(given) != len(keys))
    ):
        raise ValueError(
            f"metrics must be in the structure of the model's outputs, {keys}; received "
            f"{type(given).__name__} of {list(found)}"
        )
    return [
        (metric, key)
        for key, own in found.items()
        for metric in tf.nest.flatten(own)
        if metric is not None
    ]


def _as_numbers(result):
    """A float, or an array of several numbers."""
    value = np.array(result)
    return value if value.ndim else float(value)
