"""What trains on several replicas, in a process of its own: ``python replicas_training.py FILE``.

The tests of test_training_on_replicas.py read the results from the file.
"""

import pickle
import sys
import tempfile
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from helpers import KERAS, copies, values

import bnref
from bnref import devices, training
from bnref.training._added import AVERAGED_SINCE

RANDOM = np.random.default_rng(0)
X = (RANDOM.standard_normal((61, 6)) * [1, 5, 0.2, 1, 1, 3] + [0, 4, 0, -9, 0, 1]).astype("float32")
Y = np.int64(X[:, 0] * X[:, 4] > 0)
RANDOM_IMAGES = RANDOM.standard_normal((41, 4, 4, 1)).astype("float32")
# The second half comes from another source: as if each of two replicas had its own.
OTHER = np.concatenate([X[:30], X[30:60] * 3 + 10]).astype("float32")
REPLICAS = (1, 2, 3)


def adam():
    return keras.optimizers.Adam(0.01)


def scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))


def descent(**clipping):
    """Makes the optimizer, which must be made in the strategy's scope."""
    return partial(keras.optimizers.SGD, 0.5, **clipping)


def scaled_and_clipped():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5, global_clipnorm=0.2))


def scheduled():
    return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.5, 5))


class Adds(keras.layers.Layer):
    """Adds the mean square of what it passes on to the loss."""

    def call(self, x):
        self.add_loss(0.1 * tf.reduce_mean(tf.square(x)))
        return x


def adding():
    layers = [keras.Input((6,)), keras.layers.Dense(16, use_bias=False)]
    layers += [bnref.SyncBatchNorm(momentum=0.8), keras.layers.ReLU(), Adds()]
    return keras.Sequential([*layers, keras.layers.Dense(2, activity_regularizer="l2")])


def of_two_outputs():
    x = keras.Input((6,))
    hidden = keras.layers.Dense(16, use_bias=False)(x)
    hidden = keras.layers.ReLU()(bnref.SyncBatchNorm(momentum=0.8)(hidden))
    outputs = {"kind": keras.layers.Dense(2)(hidden), "sum": keras.layers.Dense(3)(hidden)}
    return keras.Model(x, outputs)


def of_kind(y, output):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)


def of_sum(y, output):
    return 0.01 * tf.square(output - y[:, None])


def both(y, output):
    return of_kind(y["kind"], output["kind"]) + tf.reduce_mean(of_sum(y["sum"], output["sum"]), -1)


def network(norm=bnref.SyncBatchNorm, penalty=None):
    # No bias: its gradient is rounding alone under batch norm, and Adam would make steps of that.
    penalty = penalty and keras.regularizers.L2(penalty)
    dense = keras.layers.Dense(16, use_bias=False, kernel_regularizer=penalty)
    layers = [keras.Input((6,)), dense, norm(momentum=0.8), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


def learned(strategy, *, make=network, optimizer=adam, data=(X, Y), policy="float32", **options):
    """The history and the weights of a model after six steps."""
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    with strategy.scope():
        model, optimizer = make(), optimizer()
    keras.mixed_precision.set_global_policy("float32")
    options = {"steps": 6, "batch_size": 20, "every": 1, **options}
    return training.train(model, *data, optimizer=optimizer, **options), values(model), model


# fmt: off
RUNS = {
    "whole": {},
    # 61 examples in batches of 20: the last one of an epoch has a single example.
    "one example": {"carry": False, "batch_size": 20, "steps": 8},
    "accumulated": {"accumulate": 3},
    "penalized": {"make": partial(network, penalty=0.1)},
    "float16": {"policy": "mixed_float16", "optimizer": scaled},
    "float32": {"optimizer": partial(keras.optimizers.SGD, 0.1)},
    "not clipped": {"optimizer": descent()},
    "clipnorm": {"optimizer": descent(clipnorm=0.2)},
    "global_clipnorm": {"optimizer": descent(global_clipnorm=0.2)},
    "clipvalue": {"optimizer": descent(clipvalue=0.02)},
    "float16, clipped": {"policy": "mixed_float16", "optimizer": scaled_and_clipped},
    "schedule": {"optimizer": scheduled},
    "added": {"make": adding, "carry": False, "steps": 8},
    "added, accumulated": {"make": adding, "accumulate": 3},
    "two losses": {
        "make": of_two_outputs, "data": (X, {"kind": Y, "sum": X.sum(1)}),
        "loss": {"kind": of_kind, "sum": of_sum},
    },
    "both at once": {
        "make": of_two_outputs, "data": (X, {"kind": Y, "sum": X.sum(1)}), "loss": both,
    },
    "each its own": {"make": partial(network, bnref.BatchNorm)},
}
# fmt: on
if KERAS < AVERAGED_SINCE:  # an activity regularizer is refused on several replicas
    del RUNS["added"], RUNS["added, accumulated"]
LAYERS = (
    "BatchNorm",
    "ReplicaMeanBatchNorm",
    "PooledBatchNorm",
    "SyncBatchNorm",
    "BatchRenorm",
    "CumulativeBatchNorm",
)  # fmt: skip


def of_two_sources(strategy, norm):
    """Train each replica on its own source; evaluate, exchange, save, load, evaluate again."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model, optimizer = network(norm), adam()
    step = training.Run(model, optimizer).step
    for _ in range(5):
        step(OTHER, Y[:60])
    layer = model.layers[1]
    before = copies(strategy, [layer.moving_mean])
    found = {"evaluated": training.evaluate(model, OTHER, Y[:60], batch_size=23)}
    swap = np.r_[30:60, :30]
    found["exchanged"] = training.evaluate(model, OTHER[swap], Y[:60][swap], batch_size=59)
    found["replicas before"] = before
    found["replicas"] = [copies(strategy, [each]) for each in layer.non_trainable_variables]
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        loaded = keras.models.load_model(f"{folder}/model.keras")
    found["logits of the loaded"] = np.array(loaded(OTHER, training=False))
    return found


def refusals(strategy):
    """What is refused of several replicas, with its message."""
    with strategy.scope():
        model = network()

    def mean(y, output):
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, output))

    def inside():
        with strategy.scope():
            return adam()

    def options(**given):
        with strategy.scope():
            return keras.optimizers.SGD(0.1, **given)

    attempts = {
        "gradient_accumulation_steps": lambda: (
            training.Run(model, options(gradient_accumulation_steps=2)).step
        ),
        "optimizer": lambda: training.Run(model, adam()).step,
        "jit_compile": lambda: training.Run(model, inside(), jit_compile=True).step,
        "loss": lambda: training.Run(model, inside(), mean).step(X, Y),
    }
    return {name: message(attempt) for name, attempt in attempts.items()}


def message(attempt):
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def overflowing(strategy, replica):
    """The weights and the losses of three steps in float16; in the first one replica overflows."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model, optimizer = network(bnref.BatchNorm), scaled()
    keras.mixed_precision.set_global_policy("float32")
    step, spoilt = training.Run(model, optimizer).step, X[:60].copy()
    spoilt[30 * replica : 30 * replica + 30] *= 1e5
    found = [[np.array(v) for v in model.trainable_variables]]
    for x in (spoilt, X[:60], X[:60]):
        step(x, Y[:60])
        found.append([np.array(v) for v in model.trainable_variables])
    return found


class SyncMasked(bnref.SyncBatchNorm, bnref.MaskedBatchNorm):
    """Whose statistics? The steps of all replicas where the mask is true."""


def nothing_to_read(strategy):
    """The population after a step in which the mask is false everywhere, on each replica."""
    with strategy.scope():
        layer = SyncMasked(momentum=0.5)
        layer.build((None, 6))
    run = tf.function(lambda: strategy.run(lambda: layer(X, mask=X[:, 0] > 1e9, training=True)))
    run()
    return copies(strategy, layer.non_trainable_variables)


def of_images(strategy):
    """Loss and accuracy of a convolution on as many images as leave a last batch of one."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 3), bnref.BatchNorm()]
        model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(2)])
    x = RANDOM_IMAGES
    return training.evaluate(model, x, np.arange(41) % 2, batch_size=20)


def resumed(strategy, folder):
    """Twelve steps at once, and in two parts with a checkpoint in between, of a layer that uses
    its population in training."""
    make = partial(network, partial(bnref.BatchRenorm, r_max=2, d_max=2))
    options = {"make": make, "data": (OTHER, Y[:60]), "batch_size": 60}
    parts = {}
    for name, steps in (("whole", [12]), ("parts", [5, 12])):
        checkpoints = training.Checkpoints(Path(folder) / name, every=5)
        for number in steps:
            parts[name] = learned(strategy, checkpoints=checkpoints, steps=number, **options)[:2]
    return parts


def on_replicas_of(strategy):
    """What `training.on_replicas` makes of shares alike and unlike in size, and of a step."""
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        layer = bnref.BatchNorm(momentum=0.0)
        layer.build((None, 6))

    def moments(x, scale):
        y = layer(x, training=True)
        return tf.reduce_mean(x * scale, 0), tf.shape(y)[0], None

    def nothing(x):
        layer.moving_mean.assign(x[0])

    asked, seen = training.on_replicas(strategy, moments), []
    scales = np.arange(1.0, replicas + 1).astype("float32")
    for shares in ([X[:30]] * replicas, [X[i : i + 7 * (i + 1)] for i in range(replicas)]):
        found = [(np.array(mean), int(size), none) for mean, size, none in asked(shares, scales)]
        seen.append((shares, found, copies(strategy, [layer.moving_mean])))
    return {
        "seen": seen,
        "nothing": training.on_replicas(strategy, nothing)(np.stack([X[:2]] * replicas)),
        "wrong": message(lambda: asked([X[:30]] * (replicas + 1), scales)),
    }


if __name__ == "__main__":
    devices.configure(cpus=max(REPLICAS))
    strategies = {number: training.strategy(number) for number in REPLICAS}
    results = {
        (name, number): learned(strategies[number], **options)[:2]
        for name, options in RUNS.items()
        for number in REPLICAS
    }
    for name in LAYERS:
        results["two sources", name] = of_two_sources(strategies[2], getattr(bnref, name))
    results["refusals"] = refusals(strategies[2])
    results["overflow"] = [overflowing(strategies[2], replica) for replica in (0, 1)]
    results |= {("on replicas", n): on_replicas_of(strategies[n]) for n in REPLICAS}
    results["nothing to read"] = nothing_to_read(strategies[2])
    results["images"] = [of_images(strategies[number]) for number in REPLICAS]
    with tempfile.TemporaryDirectory() as folder:
        results["resumed"] = resumed(strategies[2], folder)
    Path(sys.argv[1]).write_bytes(pickle.dumps(results))
