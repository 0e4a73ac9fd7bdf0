"""One of every layer and how it is called, here and on several replicas."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from helpers import local, output_and_gradients, result_in_new_process, strategy_of, with_state

from bnref import devices, layers

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
    options: dict = {}
    extra: object = no_more

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


class Job(NamedTuple):
    """One training step of a layer on several replicas, each with its own batch and dy."""

    bases: tuple
    options: dict
    batches: list
    gradients: list
    extra: list

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
                layer, self.batches[mine], self.gradients[mine], **self.extra[mine]
            )
            return results, {each.name: each.value.read_value() for each in layer.variables}

        outcome = strategy.run(on_replica)
        own = [
            tf.nest.map_structure(lambda each, i=i: local(strategy, each, i), outcome)
            for i, _ in enumerate(self.batches)
        ]
        return [each for each, _ in own], [each for _, each in own]


def run_all(jobs):
    devices.configure(cpus=max(len(job.batches) for job in jobs))
    return [job.run() for job in jobs]


def on_replicas(jobs):
    """Run the jobs in a new process: logical devices are configured once a process."""
    return result_in_new_process(run_all, jobs)
