"""One of two workers that get bad data: ``python bad_data_worker.py FOLDER``.

It writes what it was told to a file of its number in the folder.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from bnref import training, workers

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((60, 4)).astype("float32")
Y = np.int64(X[:, 0] > 0)
SELF = workers.task().index  # 0 where the tests of pytest read this file


def slices(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def fewer(context):
    """The second worker has a sixth of what the first one has."""
    number = 10 if context.input_pipeline_id else 60
    return slices(X[:number], Y[:number]).batch(5)


def none_on_one(context):
    return slices(X, Y).batch(5).take(0 if context.input_pipeline_id else 9)


def none_turns_out_on_one(context):
    """Nobody knows that the second worker has none before it has read them all."""
    wanted = tf.constant(context.input_pipeline_id == 0)
    return slices(X, Y).filter(lambda x, y: wanted).batch(5)


# Made after the strategy, which must be the first of TensorFlow.
CASES = {
    # The first, as a network sets the seed that a shuffle without one of its own takes.
    "unseeded": lambda: slices(X, Y).shuffle(60).batch(20),
    "local": lambda: slices(X[SELF::2], Y[SELF::2]).batch(10),
    "local targets": lambda: slices(X, Y + SELF).batch(10),
    "seeded": lambda: slices(X, Y).shuffle(60, seed=1).batch(20),
    "none on one": lambda: none_on_one,
    "turns out": lambda: none_turns_out_on_one,
    "none": lambda: slices(X, Y).batch(5).take(0),
    "fewer": lambda: fewer,
}


def told(attempt, *given):
    """What it returns, or what was refused."""
    try:
        return attempt(*given)
    except ValueError as error:
        return str(error)


def last_step(strategy, data):
    with strategy.scope():
        model = network()
    return int(training.train(model, data, steps=4)["step"][-1])


if __name__ == "__main__":
    strategy = training.strategy()
    found = {name: told(last_step, strategy, make()) for name, make in CASES.items()}
    with strategy.scope():
        model = network()
    found["evaluated"] = training.evaluate(model, fewer)
    right = keras.metrics.SparseCategoricalAccuracy(name="right")
    found["counted"] = training.evaluate(model, fewer, metrics=[right])["right"]
    found["evaluated local"] = told(training.evaluate, model, CASES["local"]())
    Path(sys.argv[1], f"{SELF}.json").write_text(json.dumps(found))
