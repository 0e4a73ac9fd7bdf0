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
from helpers import copies

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
    before = copies(strategy, model.variables)

    def note(name, population):
        measures = {"run": run.evaluate, "function": partial(training.evaluate, model)}
        for who, measure in measures.items():
            found[name, who] = measure(X, Y, batch_size=25, population=population)
            after = copies(strategy, model.variables)
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
    found["same after errors"] = all(map(np.array_equal, before, copies(strategy, model.variables)))
    found["first"] = run.evaluate(X, Y)
    return found


class Largest(keras.metrics.Metric):
    """The largest output: added up over replicas it would be wrong."""

    def __init__(self):
        super().__init__(name="largest")
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y, output, sample_weight=None):
        self.largest.assign(tf.maximum(self.largest.value, tf.reduce_max(output)))

    def result(self):
        return self.largest.value


def spread(y, output):
    """A function of all outputs."""
    first, *_ = tf.nest.flatten(output)
    return tf.reduce_max(first, -1) - tf.reduce_min(first, -1)


def metrics():
    """Of one output; each is made anew."""
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top")
    entropy = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")
    return [top, entropy, Largest(), spread]


class Ranked(keras.metrics.AUC):
    """The area under the curve of the second class among the first two."""

    def __init__(self):
        super().__init__(name="area", from_logits=True)

    def update_state(self, y, output, sample_weight=None):
        super().update_state(y == 1, output[:, 1] - output[:, 0], sample_weight=sample_weight)


def of_three_classes():
    layers = [keras.Input((6,)), bnref.BatchNorm(), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def of_two_outputs(kind):
    x = keras.Input((6,))
    dense = keras.layers.Dense
    outputs = {"kind": dense(3)(x), "sum": dense(1)(x)}
    return keras.Model(x, outputs if kind is dict else list(outputs.values()))


TARGETS = np.arange(61) % 3
SUM = X.sum(1, keepdims=True)
WEIGHTS = RANDOM.uniform(0, 3, 61).astype("float32")


def counted(strategy):
    """Metrics of one output and of two, on arrays and on batches that leave replicas without."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model, two, listed = of_three_classes(), of_two_outputs(dict), of_two_outputs(list)
    slices = tf.data.Dataset.from_tensor_slices
    run, found = training.Run(model), {"weights": model.get_weights()}
    own = [*metrics(), Ranked()]
    for name, count in {"run": run.evaluate, "function": partial(training.evaluate, model)}.items():
        found["arrays", name] = count(X, TARGETS, batch_size=25, metrics=own)
        found["weighted", name] = count(X, TARGETS, sample_weight=WEIGHTS, metrics=own)
        data = slices((X, TARGETS.astype("uint8"), WEIGHTS)).batch(20)
        found["data set", name] = count(data, metrics=own)
        found["small", name] = count(X[:1], TARGETS[:1], metrics=own)
    found["state"] = [np.array(v) for each in own[:3] for v in each.variables]
    of_sum = keras.metrics.MeanSquaredError(name="error")
    each = {"kind": metrics(), "sum": of_sum}
    targets = {"kind": TARGETS, "sum": SUM}
    found["two"] = training.evaluate(two, X, targets, batch_size=25, metrics=each)
    found["two weights"] = two.get_weights()
    found["all of two"] = training.evaluate(two, X, targets, metrics=spread)
    listed.set_weights(two.get_weights())
    each, pipeline = [None, [of_sum]], slices((X, (TARGETS, SUM))).batch(20)
    found["list"] = training.evaluate(listed, pipeline, metrics=each)
    with strategy.scope():
        inside = keras.metrics.SparseCategoricalAccuracy()
    found["inside"] = refused(lambda: run.evaluate(X, TARGETS, metrics=[inside]))
    return found


def averaging(scaled):
    inner = keras.optimizers.SGD(0.2, use_ema=True, ema_momentum=0.8)
    return keras.optimizers.LossScaleOptimizer(inner) if scaled else inner


def averaged(strategy, scaled=False):
    """Six steps whose weights are averaged, and evaluations by the averages.

    Synchronized, so that the weights are those of one device.
    """
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.Input((6,)), bnref.SyncBatchNorm(), keras.layers.Dense(8, use_bias=False)]
        layers += [bnref.SyncBatchNorm(momentum=0.9), keras.layers.ReLU(), keras.layers.Dense(2)]
        model, optimizer = keras.Sequential(layers), averaging(scaled)
    run, found = training.Run(model, optimizer), {"weights": []}
    with run.averaged(BATCHES):
        found["before the first"] = run.evaluate(X, Y)
    found["not averaged"] = run.evaluate(X, Y, population=BATCHES)
    for _ in range(6):
        run.step(X, Y)
        found["weights"].append([np.array(each) for each in model.trainable_variables])
    found["last"] = run.evaluate(X, Y)
    before = copies(strategy, model.variables)
    with run.averaged(BATCHES):
        found["evaluated"] = run.evaluate(X, Y)
        found["averages"] = copies(strategy, model.variables)
    with run.averaged(iter(BATCHES)):
        run.evaluate(X, Y, population="mean")
        found["again"] = run.evaluate(X, Y, metrics=[])
    found["same"] = all(map(np.array_equal, before, copies(strategy, model.variables)))
    spoilt = [X[:20], X[:20] * np.float32(np.nan)]
    found["failed"] = refused(lambda: run.averaged(spoilt).__enter__())
    found["same after an error"] = all(
        map(np.array_equal, before, copies(strategy, model.variables))
    )
    return found


def everything(strategy):
    found = {"populations": populations(strategy), "metrics": counted(strategy)}
    return found | {"averaged": averaged(strategy), "scaled": averaged(strategy, scaled=True)}


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
