"""What is evaluated by several populations: ``python evaluating.py FILE [workers]``.

On one, two and three logical devices, or as one of several workers. The tests of
test_evaluating.py read the results from the file, which the first worker writes.
"""

import pickle
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import bnref
from bnref import devices, training, workers

RANDOM = np.random.default_rng(0)
X = (RANDOM.standard_normal((61, 6)) * [1, 5, 0.2, 1, 1, 3] + [0, 4, 0, -9, 0, 1]).astype("float32")
Y = np.int64(X[:, 0] * X[:, 4] > 0)
REPLICAS = (1, 2, 3)
# Unequal, and another distribution than that of the test data.
BATCHES = [2 * X[:20] + 1, X[20:27], X[27:61]]


def network():
    """A norm of each kind that a model may have, with dropout, whose state recomputing moves."""
    layers = [keras.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dense(8)]
    layers += [bnref.BatchNorm(), keras.layers.Dropout(0.5), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


def norms(model):
    return model.layers[0], model.layers[2]


def copies(strategy, model):
    """The value of each variable of the model, on each replica of this process."""
    return [
        np.array(copy)
        for each in model.variables
        for copy in strategy.experimental_local_results(each.value)
    ]


def with_populations_of_their_own(strategy):
    """A model whose replicas remember different populations."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = network()

    def remember():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        number = tf.cast(replica, tf.float32)
        for norm in norms(model):
            channels = tf.range(norm.moving_mean.shape[0], dtype=tf.float32)
            norm.moving_mean.assign(channels / 3 - number)
            norm.moving_variance.assign(0.5 + channels + 2 * number)

    tf.function(lambda: strategy.run(remember))()
    return model


def refused(attempt):
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def populations(strategy):
    """Evaluations by each population, and whether all was put back to the bit."""
    model = with_populations_of_their_own(strategy)
    run, found = training.Run(model), {}
    before = copies(strategy, model)

    def note(name, population):
        measures = {"run": run.evaluate, "function": partial(training.evaluate, model)}
        for who, measure in measures.items():
            found[name, who] = measure(X, Y, batch_size=25, population=population)
            after = copies(strategy, model)
            found[name, who, "same"] = all(map(np.array_equal, before, after))

    note("mean", "mean")
    note("batches", BATCHES)
    note("data set", tf.data.Dataset.from_generator(
        lambda: iter(BATCHES), output_signature=tf.TensorSpec((None, 6))
    ))  # fmt: skip
    spoilt = X.copy()
    spoilt[7] = np.nan
    found["failed"] = refused(lambda: run.evaluate(spoilt, Y, population=BATCHES))
    found["failed to recompute"] = refused(lambda: run.evaluate(X, Y, population=[]))
    found["same after errors"] = all(map(np.array_equal, before, copies(strategy, model)))
    found["first"] = run.evaluate(X, Y)
    return found


def everything(strategy):
    return {"populations": populations(strategy)}


if __name__ == "__main__":
    if sys.argv[2:]:
        strategy, first = training.strategy(), workers.task().index == 0
        results = everything(strategy)
    else:
        devices.configure(cpus=max(REPLICAS))
        first = True
        results = {number: everything(training.strategy(number)) for number in REPLICAS}
    if first:
        Path(sys.argv[1]).write_bytes(pickle.dumps(results))
