"""Replicas of TensorFlow: the same function on each, on logical CPU devices where no GPUs are."""

import functools
from collections.abc import Callable

import tensorflow as tf

from bnref import training

__all__ = ["differentiated_along", "everywhere", "strategy_of"]


@functools.cache
def strategy_of(count: int) -> tf.distribute.Strategy:
    """One strategy for each number of replicas; the default one, without replicas, for 1."""
    return training.strategy(count)


def everywhere(function: Callable, *columns: list | None) -> list[list]:
    """Call the function on each replica with its entry of each column; None stays None.

    Returns a list for each of the function's results, with one array a replica.
    """
    count = max(len(column) for column in columns if column is not None)
    present = [column for column in columns if column is not None]

    def with_none(*entries):
        left = iter(entries)
        return function(*(None if column is None else next(left) for column in columns))

    if count == 1:
        results = [with_none(*(tf.constant(column[0]) for column in present))]
    else:
        results = training.on_replicas(strategy_of(count), with_none)(*present)
    return [[_array(each) for each in of_all] for of_all in zip(*results, strict=True)]


def differentiated_along(
    function: Callable, x: tf.Tensor, weights: tf.Tensor, direction: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """y, and the gradient of Σ weights · tanh(y) by x, differentiated along a direction."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
            loss = tf.reduce_sum(weights * tf.tanh(y))
        gradient = inner.gradient(loss, x)
        along = tf.reduce_sum(gradient * direction)
    return y, outer.gradient(along, x)


def _array(result):
    return None if result is None else tf.convert_to_tensor(result).numpy()
