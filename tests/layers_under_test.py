"""One of every layer, how it is called, and what many tests do with a layer.

Run as a script, it trains layers on several replicas: logical devices are configured once a
process, so that happens in a process of its own.
"""

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bnref import devices, layers

# No variable is what it starts as, and no two channels are alike.
GAMMA, BETA = [1.5, -0.7, 0.2], [0.3, 2.0, -4.0]
MEAN, VARIANCE = [0.5, -1.0, -6.0], [2.0, 0.3, 30.0]
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
# Renormalization with clips that bind for some of the channels and not for others.
CLIPPED = {"r_max": 1.5, "d_max": 0.5}


def no_more(shape):
    return {}


def some_steps(size):
    """A mask that is false for one step in three."""
    return np.arange(np.prod(size)).reshape(size) % 3 != 1


def steps(shape):
    """A mask of examples, and of their positions on the second axis where there are some."""
    return {"mask": some_steps(shape[:-1][:2])}


def domains(shape):
    """Domains 0 and 2 mixed in unequal parts; 1 of the three is not there."""
    return {"domain": np.where(np.arange(shape[0]) % 3 == 1, 0, 2).astype("int32")}


class Case(NamedTuple):
    """A layer's class, the options it is made with, and what a call needs besides x."""

    kind: type
    options: dict = {}  # noqa: RUF012
    whose: object = no_more

    def make(self, channels=3, **options):
        """A built layer in which no variable is what it starts as."""
        layer = self.kind(**{"momentum": 0.6, "epsilon": 0.02, **self.options, **options})
        return with_state(layer, channels)


CASES = {
    "BatchNorm": Case(layers.BatchNorm),
    "BatchRenorm": Case(layers.BatchRenorm, CLIPPED),
    "CumulativeBatchNorm": Case(layers.CumulativeBatchNorm),
    "DebiasedBatchNorm": Case(layers.DebiasedBatchNorm),
    "DomainBatchNorm": Case(layers.DomainBatchNorm, {"domains": 3}, domains),
    "ExampleWeighingBatchNorm": Case(layers.ExampleWeighingBatchNorm, {"example_weight": 0.3}),
    "FrozenBatchNorm": Case(layers.FrozenBatchNorm),
    "GhostBatchNorm": Case(layers.GhostBatchNorm, {"groups": 2}),
    "LasagneBatchNorm": Case(layers.LasagneBatchNorm),
    "MaskedBatchNorm": Case(layers.MaskedBatchNorm, {}, steps),
    "PooledBatchNorm": Case(layers.PooledBatchNorm),
    "ReplicaMeanBatchNorm": Case(layers.ReplicaMeanBatchNorm),
    "SyncBatchNorm": Case(layers.SyncBatchNorm),
    "UntrackedBatchNorm": Case(layers.UntrackedBatchNorm),
}


def batch_of(shape, seed=0, dtype="float32"):
    """Normal values whose channels differ in scale and offset."""
    random, channels = np.random.default_rng(seed), np.arange(shape[-1])
    scale, offset = 0.5 * 3.0**channels, 2.0 - 5 * channels + seed
    return (random.normal(size=shape) * scale + offset).astype(dtype)


def with_state(layer, channels=3):
    """Build the layer and set γ, β, mean and variance; each further row is 1.5 times the last."""
    if not layer.built:
        layer.build((None, channels))
    for variable, value in zip(
        layer.variables[:4], (GAMMA, BETA, MEAN, VARIANCE), strict=True
    ):  # fmt: skip
        rows = np.prod(variable.shape[:-1], dtype=int)
        value = np.resize(value, channels) * 1.5 ** np.arange(rows)[:, None]
        variable.assign(value.reshape(variable.shape))
    return layer


def state(layer):
    return {each.name: each.numpy() for each in layer.variables}


def assert_state(layer, expected, **options):
    """Every variable is as expected; what is not named is as `with_state` and `build` set it."""
    fresh = type(layer).from_config(layer.get_config())
    wanted = {**state(with_state(fresh, layer.gamma.shape[-1])), **expected}
    actual = state(layer)
    assert actual.keys() == wanted.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, wanted[name], err_msg=name, **(options or CLOSE))


def assert_same_state(layer, before):
    actual = state(layer)
    assert actual.keys() == before.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def output_and_gradients(layer, x, dy, training=True, **whose):
    """y, and the gradients of Σ dy·y with respect to x, γ and β."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training, **whose)
    watched = [x, layer.gamma.value, layer.beta.value]
    gradients = tape.gradient(y, watched, tf.cast(dy, y.dtype))
    return [tf.convert_to_tensor(each) for each in (y, *gradients)]


def assert_all_close(actual, expected, **options):
    for number, (each, wanted) in enumerate(zip(actual, expected, strict=True)):
        np.testing.assert_allclose(each, wanted, err_msg=str(number), **(options or CLOSE))


def central_differences(loss, values, step=1e-5):
    """The gradient of ``loss()`` with respect to an array that it reads, number by number."""
    differences = np.empty(values.shape)
    for index in np.ndindex(values.shape):
        kept = values[index]
        values[index] = kept + step
        above = loss()
        values[index] = kept - step
        differences[index] = (above - loss()) / (2 * step)
        values[index] = kept
    return differences


@functools.cache
def strategy_of(replicas):
    """One a process for each number: two that talk would mistake each other's messages."""
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


class Job(NamedTuple):
    """One training step of a layer on several replicas, each with its own batch and dy."""

    bases: tuple
    options: dict
    batches: list
    gradients: list
    whose: list

    def run(self):
        """A list of (y, dx, dgamma, dbeta) and a list of states, one a replica."""
        kinds = [getattr(layers, name) for name in self.bases]
        kind = kinds[0] if len(kinds) == 1 else type("Composed", tuple(kinds), {})
        strategy = strategy_of(len(self.batches))
        with strategy.scope():
            layer = Case(kind, self.options).make(self.batches[0].shape[-1])

        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = int(tf.get_static_value(replica))
            results = output_and_gradients(
                layer, self.batches[mine], self.gradients[mine], **self.whose[mine]
            )
            return results, {each.name: each.value.read_value() for each in layer.variables}

        outcome = strategy.run(on_replica)
        own = [
            tf.nest.map_structure(lambda each, i=i: local(strategy, each, i), outcome)
            for i, _ in enumerate(self.batches)
        ]
        return [each for each, _ in own], [each for _, each in own]


def local(strategy, value, index):
    return np.array(strategy.experimental_local_results(value)[index])


def on_replicas(jobs, folder):
    """Run the jobs in a new process with as many logical devices as they need."""
    (folder / "jobs").write_bytes(pickle.dumps(jobs))
    in_new_process(__file__, str(folder / "jobs"), str(folder / "results"))
    return pickle.loads((folder / "results").read_bytes())


def in_new_process(*arguments, environment=None):
    """Run this Python with the arguments; its output is shown if it fails."""
    environment = {
        **os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        **(environment or {}),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    wanted = pickle.loads(Path(sys.argv[1]).read_bytes())
    devices.configure(cpus=max(len(job.batches) for job in wanted))
    results = [job.run() for job in wanted]
    Path(sys.argv[2]).write_bytes(pickle.dumps(results))
