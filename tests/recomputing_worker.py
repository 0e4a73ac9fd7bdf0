"""One of two workers that recompute a population: ``python recomputing_worker.py FOLDER``.

It writes what it found to a file of its number in the folder. The tests of
test_recomputing_on_workers.py ask for the cases by name, and know what one process finds.
"""

import pickle
import sys
from pathlib import Path

import keras
import numpy as np

import bnref
from bnref import population, training, workers

RANDOM = np.random.default_rng(0)
# Eleven batches of unequal sizes, whose distributions drift.
BATCHES = [
    (RANDOM.standard_normal((4 + i % 3, 3)) * [1, 4, 0.3] + i).astype("float32") for i in range(11)
]
X, Y = np.concatenate(BATCHES), np.arange(sum(map(len, BATCHES))) % 2
# What each of the two workers passes.
SHARDS = {
    "shards": (BATCHES[:7], BATCHES[7:]),
    "the same": (BATCHES, BATCHES),
    "none on one": (BATCHES, []),
}


def network():
    """Of a norm of the first layer and one that sees what the first one gives."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((3,)), bnref.BatchNorm(), keras.layers.Dense(4)]
    return keras.Sequential([*layers, keras.layers.BatchNormalization(), keras.layers.Dense(2)])


def found(model, batches, variance):
    """The populations and the evaluation after recomputing, or what was refused."""
    try:
        population.recompute(model, batches, variance=variance)
    except ValueError as error:
        return str(error)
    statistics = [np.array(v) for v in model.non_trainable_variables if "moving" in v.name]
    return statistics, training.evaluate(model, X, Y)


if __name__ == "__main__":
    strategy, own = training.strategy(), workers.task().index
    with strategy.scope():
        model = network()
    results = {
        (name, variance): found(model, shards[own], variance)
        for name, shards in SHARDS.items()
        for variance in ("pooled", "corrected")
    }
    Path(sys.argv[1], str(own)).write_bytes(pickle.dumps(results))
