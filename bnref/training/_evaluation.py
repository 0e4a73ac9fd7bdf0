"""Loss and accuracy by the population that is saved, on one replica or on many."""

import itertools
from functools import partial

import numpy as np
import tensorflow as tf

from bnref._checks import whole_number
from bnref.population import check
from bnref.training._batches import (
    check_data,
    check_finite,
    in_host_memory,
    number_of_examples,
    share,
)
from bnref.training._losses import cross_entropy, logits_of, probabilities, weighted
from bnref.training._metrics import Metrics, gathered_outputs, transportable
from bnref.training._pipelines import Pipeline
from bnref.training._populations import Populations, check_population
from bnref.training._sources import is_pipeline, refuse_beside_a_pipeline


class Evaluation:
    """What is compiled once to evaluate a model.

    Parameters
    ----------
    model : keras.Model
        From inputs to logits, or to what softmax makes of them.
    often : bool
        Whether it is called again and again. On one replica, to compile pays only then.
    """

    def __init__(self, model, *, often):
        self.model, self.strategy = model, model.distribute_strategy
        self.populations = Populations(model)
        self._compiles = often or self.strategy.num_replicas_in_sync > 1
        self._compiled = {}

    def __call__(
        self, x, y=None, sample_weight=None, *, batch_size=None, population="first", metrics=None
    ):
        """Loss and accuracy, or metrics; described at `bnref.training.Run.evaluate`."""
        check_population(population)
        if is_pipeline(x):
            refuse_beside_a_pipeline(y=y, sample_weight=sample_weight, batch_size=batch_size)
            batches = (batch for (batch,) in Pipeline(x, self.model).batches(once=True))
        else:
            batch_size = 500 if batch_size is None else whole_number("batch_size", batch_size)
            check_data(x, y, sample_weight, batch_size=1)
            batches = _cut((x, y) if sample_weight is None else (x, y, sample_weight), batch_size)
        counted = None if metrics is None else Metrics(metrics)
        function = self._sums if counted is None else self._outputs
        with self.populations.used(population):
            check(self.model)
            results = self._everywhere(function, batches, shared=is_pipeline(x))
            if counted is None:
                return self._loss_and_accuracy(results)
            return counted.of(gathered_outputs(self.strategy, each) for each in results)

    def _everywhere(self, function, batches, *, shared):
        """Yield what a function returns on the replicas for each batch.

        It is compiled once; ``shared`` says that a batch comes as each replica's share.
        """
        if (function, shared) not in self._compiled:
            on_replica = function if shared else partial(_of_share, function)
            run = partial(self.strategy.run, on_replica)
            if self._compiles:
                # A partial: of a lambda TensorFlow counts how often it is traced for any model.
                run = tf.function(run, reduce_retracing=True)
            self._compiled[function, shared] = run
        for batch in batches:
            yield self._compiled[function, shared]((batch,))

    def _loss_and_accuracy(self, results):
        sums = [self.strategy.reduce("sum", each, axis=None) for each in results]
        loss, right, probable, predictions, weight = np.sum(sums, 0)
        if probable == predictions:
            raise ValueError(
                "model must give logits, or end in a softmax of Keras's; received outputs that are "
                "all 0 or more and have the sum 1: leave the softmax out, as the loss has it"
            )
        if not weight > 0:
            raise ValueError(f"sample_weight must have a sum above 0; received the sum {weight}")
        return float(loss / weight), float(right / weight)

    def _outputs(self, batch):
        """Targets, outputs and weights of a replica's share."""
        x, y, *weights = batch
        return transportable((y, self.model(x, training=False), *weights))

    def _sums(self, batch):
        """Sums over a replica's share: losses and right answers, each weighted, and counts.

        The counts are of outputs that are probabilities, of predictions, and of their weights.
        """
        x, y, *weights = batch
        output = self.model(x, training=False)
        if not tf.is_tensor(output) or not tf.is_tensor(y):
            raise ValueError(
                "model must have one output to be evaluated without metrics, of which y are the "
                "class numbers; received several: give metrics, or a function of y and outputs"
            )
        y = tf.cast(y, tf.int64)
        counts = weighted(tf.ones_like(y, tf.float64), *(weights or [None]))
        right = tf.cast(tf.argmax(output, -1) == y, tf.float64)
        losses = tf.cast(cross_entropy(y, output), tf.float64)
        probable = tf.cast(probabilities(logits_of(output)), tf.float64)
        found = losses * counts, right * counts, probable, tf.ones_like(right), counts
        return tf.stack([tf.reduce_sum(each) for each in found])


def _of_share(function, batch):
    """What a function returns of this replica's share of a batch."""
    return function(share(batch))


def _cut(data, batch_size):
    """Yield batches of nearly equal sizes, so that none leaves a replica without."""
    size = number_of_examples(*data)
    ends = np.linspace(0, size, -(-size // batch_size) + 1).astype(int)
    for number, (start, end) in enumerate(itertools.pairwise(ends), start=1):
        own = tf.nest.map_structure(lambda each, a=start, b=end: each[a:b], data)
        check_finite(own[0], batch=number, examples=range(start, end))
        yield in_host_memory(own)
