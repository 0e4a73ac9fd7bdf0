"""Evaluation by the population that is saved, on one replica or on many."""

import itertools
import weakref

import numpy as np
import tensorflow as tf

from bnref import population
from bnref.training.sharing import check_data, check_whole, share

__all__ = ["agree", "evaluate"]

_COMPILED = weakref.WeakKeyDictionary()


def evaluate(model, x, y, *, batch_size=500):
    """Mean softmax cross-entropy and accuracy at inference, every example counted once.

    On several replicas each takes its share of every batch, and all use the same population: the
    first replica's, which is the one that is saved. The others take it over, and keep it (`agree`).

    Parameters
    ----------
    model : keras.Model
        From `x` to logits, shape (N, classes), or one row a label.
    x, y : array, shapes (N, ...) and (N,), or (N, T) for logits of shape (N, T, classes)
    batch_size : int
        How many are passed at a time, over all replicas; it does not change the result.

    Returns
    -------
    loss, accuracy : float
        The same whatever the number of replicas and workers, but for rounding.

    Raises
    ------
    ValueError
        `batch_size`, `x` or `y` out of range, or a layer whose moving variance is negative or not
        finite: named with its channels.
    """
    check_whole(batch_size=batch_size)
    check_data(x, y, batch_size=1)
    strategy, totals = model.distribute_strategy, np.zeros(2)
    agree(model)
    population.check(model)
    run = _compiled(model)["sums"] if strategy.num_replicas_in_sync > 1 else _sums_of(model)
    # Batches as equal as can be, so that the last one is not too small for all replicas.
    ends = np.linspace(0, len(x), -(-len(x) // batch_size) + 1).astype(int)
    for i, j in itertools.pairwise(ends):
        with tf.device("CPU:0"):
            batch = [tf.convert_to_tensor(each[i:j]) for each in (x, y)]
        totals += strategy.reduce("sum", run(*batch), axis=None)
    loss, accuracy = totals / np.size(y)
    return float(loss), float(accuracy)


def agree(model):
    """Give every replica the first replica's population, and what else is not trained.

    Where each replica remembers its own batches, as with `bnref.layers.BatchNorm`, their
    populations differ, and the first's is what is read and saved. After this it is the one all
    infer by. `evaluate` calls it, and `train` before a checkpoint. One collective.

    Parameters
    ----------
    model : keras.Model
        Nothing is done where it has one replica.
    """
    if model.distribute_strategy.num_replicas_in_sync > 1 and model.non_trainable_variables:
        _compiled(model)["agree"]()


def _compiled(model):
    """The two graph functions of a model, made once; they hold it by a weak reference."""
    if model not in _COMPILED:
        strategy, known = model.distribute_strategy, weakref.proxy(model)
        sums = _sums_of(known)
        _COMPILED[model] = {
            "sums": tf.function(lambda *batch: strategy.run(sums, batch), reduce_retracing=True),
            "agree": tf.function(lambda: strategy.run(_take_over_the_firsts, (known,))),
        }
    return _COMPILED[model]


def _sums_of(model):
    """Make the function of a replica's share: the sums of its losses and of its right answers."""

    def sums(x, y):
        x, y = share(x, y)
        logits, y = model(x, training=False), tf.cast(y, tf.int64)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))
        right = tf.argmax(logits, -1) == y
        return tf.stack([tf.reduce_sum(tf.cast(each, tf.float64)) for each in (losses, right)])

    return sums


def _take_over_the_firsts(model):
    """Broadcast the first replica's values: a sum to which the others add zeros."""
    replica = tf.distribute.get_replica_context()
    variables = [each for each in model.non_trainable_variables if each.dtype != "string"]
    # float64 holds every float32 and every 32-bit whole number as it is.
    values = [tf.reshape(tf.cast(each.value, tf.float64), (-1,)) for each in variables]
    own = tf.concat(values, 0)
    first = replica.replica_id_in_sync_group == 0
    firsts = replica.all_reduce("sum", tf.where(first, own, tf.zeros_like(own)))
    for variable, part in zip(variables, tf.split(firsts, [len(v) for v in values]), strict=True):
        variable.assign(tf.cast(tf.reshape(part, variable.shape), variable.dtype))
