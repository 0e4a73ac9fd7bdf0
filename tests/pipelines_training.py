"""What trains on ``tf.data``: ``python pipelines_training.py FILE [workers]``.

On one, two and three logical devices, or as one of several workers. The tests of
test_pipelines.py read the results from the file, which the first worker writes.
"""

import pickle
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import bnref
from bnref import devices, training, workers

RANDOM = np.random.default_rng(0)
X = (RANDOM.standard_normal((61, 6)) * [1, 5, 0.2, 1, 1, 3] + [0, 4, 0, -9, 0, 1]).astype("float32")
Y = np.int64(X[:, 0] * X[:, 4] > 0)
WEIGHTS = RANDOM.uniform(0, 3, 61).astype("float32")
WEIGHTS[::5] = 0
REPLICAS = (1, 2, 3)


def slices(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


def batched():
    """The last batch of a pass has a single example: two of three replicas get none."""
    return slices(X, Y).batch(20)


def of_inputs():
    return slices({"one": X[:, :2], "other": X[:, 2:]}, Y).batch(20)


def shares(context):
    """Twelve examples a step, of which each worker reads its own."""
    own = slices(X[:60], Y[:60]).shard(context.num_input_pipelines, context.input_pipeline_id)
    return own.batch(context.get_per_replica_batch_size(12))


def short_on_one(context):
    """The second worker, where there is one, has far fewer examples than the first."""
    number = 12 if context.input_pipeline_id else 60
    return slices(X[:number], Y[:number]).batch(context.get_per_replica_batch_size(12))


def shuffled():
    return slices(X, Y).shuffle(61, seed=3).batch(20)


def network():
    """No bias: its gradient is rounding alone under batch norm, and Adam makes steps of that."""
    return keras.Sequential([keras.Input((6,)), *_layers()])


def network_of_inputs():
    one, other = keras.Input((2,), name="one"), keras.Input((4,), name="other")
    output = keras.layers.Concatenate()([one, other])
    for layer in _layers():
        output = layer(output)
    return keras.Model({"one": one, "other": other}, output)


def _layers():
    norm = bnref.SyncBatchNorm(momentum=0.8)
    return keras.layers.Dense(16, use_bias=False), norm, keras.layers.ReLU(), keras.layers.Dense(2)


RUNS = {
    "finite": {"data": batched},
    "repeated": {"data": lambda: batched().repeat()},
    "of unknown length": {"data": lambda: batched().filter(lambda x, y: True)},
    "one pass": {"data": batched, "steps": None},
    "weights": {"data": lambda: slices(X, Y, WEIGHTS).batch(20)},
    "accumulated": {"data": lambda: batched().filter(lambda x, y: len(x) > 1), "accumulate": 3},
    "inputs": {"data": of_inputs, "make": network_of_inputs},
    "shares": {"data": lambda: shares},
    "shuffled": {"data": shuffled},
    "arrays with weights": {
        "data": lambda: X, "y": Y, "sample_weight": WEIGHTS, "batch_size": 20, "carry": False,
    },
}  # fmt: skip


def learned(strategy, *, data, make=network, steps=8, **options):
    """The history, the weights, and an evaluation of the same data."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model, optimizer = make(), keras.optimizers.Adam(0.01)
    history = training.train(
        model, data(), steps=steps, optimizer=optimizer, every=1, progress=False, **options
    )
    return history, [np.array(each) for each in model.variables], model


def run_of(strategy, name):
    history, weights, model = learned(strategy, **RUNS[name])
    ends = {"repeated": batched, "shares": lambda: shares}.get(name, RUNS[name]["data"])
    given = {key: RUNS[name][key] for key in ("y", "sample_weight") if key in RUNS[name]}
    return history, weights, training.evaluate(model, ends(), **given)


def resumed(strategy, name, folder):
    """Eight steps at once, and in two parts with a checkpoint in between."""
    parts = []
    for kept, steps in ((None, [8]), (training.Checkpoints(folder, every=50), [5, 8])):
        for number in steps:
            found = learned(strategy, **{**RUNS[name], "steps": number}, checkpoints=kept)
        parts.append(found[:2])
    return parts


def spoilt():
    """The values of the third batch are not finite."""
    x = X.copy()
    x[45] = np.inf
    return slices(x, Y).batch(20)


def refused(strategy):
    try:
        learned(strategy, data=spoilt)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def everything(strategy):
    found = {name: run_of(strategy, name) for name in RUNS}
    found["refused"] = refused(strategy)
    return found


if __name__ == "__main__":
    if sys.argv[2:]:
        strategy, first = training.strategy(), workers.task().index == 0
        results = {name: run_of(strategy, name) for name in RUNS}
        results["short on one"] = learned(strategy, data=lambda: short_on_one)[:2]
    else:
        devices.configure(cpus=max(REPLICAS))
        strategies, first = {number: training.strategy(number) for number in REPLICAS}, True
        results = {number: everything(strategy) for number, strategy in strategies.items()}
        with tempfile.TemporaryDirectory() as folder:
            results["resumed"] = {
                (name, number): resumed(strategies[number], name, f"{folder}/{name}-{number}")
                for name in ("shuffled", "shares")
                for number in (1, 2)
            }
    if first:
        Path(sys.argv[1]).write_bytes(pickle.dumps(results))
