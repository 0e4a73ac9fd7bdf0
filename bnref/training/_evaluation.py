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
        self._of_whole, self._of_shares = self._sums_of_part, self._sums
        if self.strategy.num_replicas_in_sync > 1 or often:
            self._of_whole = self._everywhere(self._sums_of_part)
            self._of_shares = self._everywhere(self._sums)

    def _everywhere(self, function):
        """The function, compiled, on each replica."""
        # A partial: of a lambda TensorFlow would count how often it is traced for any model.
        compiled = tf.function(partial(self.strategy.run, function), reduce_retracing=True)
        return lambda batch: compiled((batch,))

    def __call__(self, x, y=None, sample_weight=None, *, batch_size=None, population="first"):
        """Mean loss and accuracy; described at `bnref.training.Run.evaluate`."""
        check_population(population)
        if is_pipeline(x):
            refuse_beside_a_pipeline(y=y, sample_weight=sample_weight, batch_size=batch_size)
            sums = self._of_pipeline(Pipeline(x, self.model))
        else:
            batch_size = 500 if batch_size is None else whole_number("batch_size", batch_size)
            check_data(x, y, sample_weight, batch_size=1)
            data = (x, y) if sample_weight is None else (x, y, sample_weight)
            sums = self._of_arrays(data, batch_size)
        with self.populations.used(population):
            check(self.model)
            loss, right, probable, predictions, weight = np.sum(list(sums), 0)
        if probable == predictions:
            raise ValueError(
                "model must give logits, or end in a softmax of Keras's; received outputs that are "
                "all 0 or more and have the sum 1: leave the softmax out, as the loss has it"
            )
        if not weight > 0:
            raise ValueError(f"sample_weight must have a sum above 0; received the sum {weight}")
        return float(loss / weight), float(right / weight)

    def _of_arrays(self, data, batch_size):
        """Yield the sums over each batch, of nearly equal sizes: none leaves a replica without."""
        size = number_of_examples(*data)
        ends = np.linspace(0, size, -(-size // batch_size) + 1).astype(int)
        for number, (start, end) in enumerate(itertools.pairwise(ends), start=1):
            own = tf.nest.map_structure(lambda each, a=start, b=end: each[a:b], data)
            check_finite(own[0], batch=number, examples=range(start, end))
            yield self.strategy.reduce("sum", self._of_whole(in_host_memory(own)), axis=None)

    def _of_pipeline(self, pipeline):
        """Yield the sums over each batch of a pipeline, as it comes."""
        for (batch,) in pipeline.batches(once=True):
            yield self.strategy.reduce("sum", self._of_shares(batch), axis=None)

    def _sums_of_part(self, batch):
        return self._sums(share(batch))

    def _sums(self, batch):
        """Sums over a replica's share: losses and right answers, each weighted, and counts.

        The counts are of outputs that are probabilities, of predictions, and of their weights.
        """
        x, y, *weights = batch
        output = self.model(x, training=False)
        if not tf.is_tensor(output) or not tf.is_tensor(y):
            raise ValueError(
                "model must have one output to be evaluated, of which y are the class numbers; "
                "received several: compute what you measure by a function of your own"
            )
        y = tf.cast(y, tf.int64)
        counts = weighted(tf.ones_like(y, tf.float64), *(weights or [None]))
        right = tf.cast(tf.argmax(output, -1) == y, tf.float64)
        losses = tf.cast(cross_entropy(y, output), tf.float64)
        probable = tf.cast(probabilities(logits_of(output)), tf.float64)
        found = losses * counts, right * counts, probable, tf.ones_like(right), counts
        return tf.stack([tf.reduce_sum(each) for each in found])
