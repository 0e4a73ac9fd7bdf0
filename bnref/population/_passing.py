"""Passes in training mode whose moments are collected, on one device or on several replicas."""

import contextlib
import inspect
import itertools
import threading
from collections.abc import Iterable, Iterator
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from bnref import norms
from bnref.norms._calling import called
from bnref.norms._feeding import inputs_of
from bnref.norms._finding import walk
from bnref.population._unchanged import unchanged


class Passes:
    """Passes of batches through a model, in training mode, that its population does not remember.

    Parameters
    ----------
    model : keras.Model
    dropout : bool
        Whether layers that act in training only do so: dropout, noise, augmentation.
    compiled : bool
        Whether one device compiles its pass, which pays where the same object passes many batches;
        several replicas always do.
    """

    def __init__(self, model, *, dropout, compiled=False):
        self.model, self.norms = model, norms.find(model)
        self.strategy, self.dropout = _strategy_of_this_process(model), dropout
        self.compiled, self._traced = compiled, {}
        # Each replica is traced in a thread of its own.
        self.own = threading.local()

    def over(self, batches: Iterable) -> Iterator[list]:
        """For each pass: the norms that saw it, with whether rows are named, and their moments."""
        arguments = self._built(inputs_of(self.model, batch) for batch in batches)
        with contextlib.ExitStack() as stack:
            for index, norm in enumerate(self.norms):
                if norm.updates:
                    stack.enter_context(norm.remembering(partial(self._remember, index)))
            if not self.dropout:
                stack.enter_context(without_dropout(self.model))
            passes = self._on_one if self.strategy is None else self._on_all
            for seen in passes(arguments):
                yield [
                    (self.norms[int(index)], (bool(named), *moments))
                    for (index, named), *moments in seen
                ]

    def _built(self, batches):
        """The same batches, after a look at the first one by a model that is not built yet.

        Keras builds layers by a call in a graph of its own, whose moments are no numbers.
        """
        batches = iter(batches)
        first = list(itertools.islice(batches, 1))
        if first and not all(layer.built for _, layer in walk(self.model)):
            scope = contextlib.nullcontext() if self.strategy is None else self.strategy.scope()
            with scope:
                self.model(*first[0], training=False)
            self.norms = norms.find(self.model)
        if not self.norms:
            raise ValueError("model must have a batch norm; found none")
        return itertools.chain(first, batches)

    def _remember(self, index, moments):
        # A Sequential of tf_keras builds itself anew for inputs of another shape.
        if not tf.executing_eagerly() and moments.mean.graph.name.endswith("scratch_graph"):
            return
        label = tf.constant([index, int(moments.rows.named)])
        self.own.seen.append((label, moments.count, moments.mean, moments.variance))

    def _pass(self, *arguments):
        """One pass; what each norm saw."""
        self.own.seen = []
        with unchanged(self.model):
            self.model(*arguments, training=True)
        return self.own.seen

    def _compiled_pass(self):
        """The pass, traced for what is trainable now, and kept for the next batches."""
        case = tuple(bool(each.trainable) for each in self.model._flatten_layers())
        if case not in self._traced:
            run = self._pass if self.strategy is None else partial(self.strategy.run, self._pass)
            # TensorFlow counts how often a piece of code is traced, whatever for, and warns; of a
            # partial it counts this one.
            self._traced[case] = tf.function(partial(run), reduce_retracing=True)
        return self._traced[case]

    def _on_one(self, batches):
        if not self.compiled:
            yield from (self._pass(*arguments) for arguments in batches)
            return
        run = self._compiled_pass()
        for arguments in batches:
            yield run(*tf.nest.map_structure(tf.convert_to_tensor, arguments))

    def _on_all(self, batches):
        """Each replica passes whole batches, so that the result is that of one device.

        Where a norm is synchronized the replicas' batches are one to it: each passes its part then.
        """
        run = self._compiled_pass()
        replicas = self.strategy.num_replicas_in_sync
        if any(norm.synchronized for norm in self.norms):
            for arguments in batches:
                first, *others = self._local(run, _parts(arguments, replicas))
                yield first
                for seen in others:  # what is synchronized is the same on all
                    yield [each for each in seen if not self.norms[int(each[0][0])].synchronized]
            return
        batches = iter(batches)
        while taken := list(itertools.islice(batches, replicas)):
            # The last round may be short: what the other replicas do then is not counted.
            filled = taken + [taken[0]] * (replicas - len(taken))
            yield from self._local(run, filled)[: len(taken)]

    def _local(self, run, columns):
        """What each replica saw, of arguments of its own."""
        flat = [[tf.convert_to_tensor(each) for each in tf.nest.flatten(own)] for own in columns]
        distributed = [
            self.strategy.experimental_distribute_values_from_function(
                lambda replica, k=k: flat[replica.replica_id_in_sync_group][k]
            )
            for k in range(len(flat[0]))
        ]
        results = run(tf.nest.pack_sequence_as(columns[0], distributed))
        leaves = map(self.strategy.experimental_local_results, tf.nest.flatten(results))
        return [tf.nest.pack_sequence_as(results, own) for own in zip(*leaves, strict=True)]


def _strategy_of_this_process(model):
    """The strategy of a model on several replicas of this process, else None."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return None
    # Several workers: each passes its batches by itself, and what they saw is put together later.
    return None if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else strategy


def _parts(arguments, replicas):
    """The arguments of each replica: equal parts of a batch, in order, the first ones larger."""
    leaves = [np.asarray(each) for each in tf.nest.flatten(arguments)]
    least = min(len(each) for each in leaves)
    if least < replicas:
        raise ValueError(
            f"batches must have an example a replica, {replicas} or more; received one of {least}"
        )
    split = [np.array_split(each, replicas) for each in leaves]
    return [tf.nest.pack_sequence_as(arguments, own) for own in zip(*split, strict=True)]


@contextlib.contextmanager
def without_dropout(model) -> Iterator[None]:
    """Within, layers that do something else in training, and are no norms, act as at inference."""
    with contextlib.ExitStack() as stack:
        for layer in acts_in_training_only(model):
            stack.enter_context(called(layer, _at_inference))
        yield


# Layers whose `training` changes nothing that matters here: Keras's way to quantized training.
TOLD_FOR_NOTHING = keras.layers.Dense, keras.layers.EinsumDense


def acts_in_training_only(model) -> list:
    """The layers of a model that are told whether this is training, and are no norms.

    Dropout, noise, augmentation; a layer that holds others passes on what it is told, and is none.
    """
    of_norms = {id(norm.layer) for norm in norms.find(model)}
    return [
        layer
        for _, layer in walk(model)
        if "training" in inspect.signature(layer.call).parameters
        and not list(layer._flatten_layers(include_self=False, recursive=False))
        and id(layer) not in of_norms
        and not isinstance(layer, TOLD_FOR_NOTHING)
    ]


def _at_inference(original, arguments):
    arguments.arguments["training"] = False
    return original(*arguments.args, **arguments.kwargs)
