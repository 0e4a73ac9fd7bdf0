"""Loss and accuracy by the population that is saved, on one replica or on many."""

import itertools

import numpy as np
import tensorflow as tf

from bnref import population
from bnref._checks import whole_number
from bnref.functional._replicas import gathered
from bnref.training._batches import check_data, share


class Evaluation:
    """What is compiled once to evaluate a model, and to make its replicas agree.

    Parameters
    ----------
    model : keras.Model
        From inputs to logits.
    """

    def __init__(self, model):
        self.model, self.strategy = model, model.distribute_strategy
        self.several = self.strategy.num_replicas_in_sync > 1
        self._sums = self._sums_of_share
        if self.several:
            self._sums = tf.function(self._sums_of_shares, reduce_retracing=True)
            self._agree = tf.function(lambda: self.strategy.run(self._take_over_the_firsts))

    def __call__(self, x, y, *, batch_size):
        """Mean loss and accuracy; described at `bnref.training.Run.evaluate`."""
        whole_number("batch_size", batch_size)
        check_data(x, y, batch_size=1)
        self.agree()
        population.check(self.model)
        totals = np.zeros(2)
        # Batches of nearly equal sizes: a small last one could leave replicas without an example.
        ends = np.linspace(0, len(x), -(-len(x) // batch_size) + 1).astype(int)
        for start, end in itertools.pairwise(ends):
            with tf.device("CPU:0"):
                batch = [tf.convert_to_tensor(each[start:end]) for each in (x, y)]
            totals += self.strategy.reduce("sum", self._sums(*batch), axis=None)
        loss, accuracy = totals / np.size(y)
        return float(loss), float(accuracy)

    def agree(self):
        """Give every replica the first replica's population, and what else is not trained.

        Where each replica remembers its own batches, as with `bnref.layers.BatchNorm`, their
        populations differ, and the first's is what is read and saved. After this it is the one all
        infer by. One collective; nothing is done where there is one replica.
        """
        if self.several and self.model.non_trainable_variables:
            self._agree()

    def _sums_of_shares(self, x, y):
        return self.strategy.run(self._sums_of_share, (x, y))

    def _sums_of_share(self, x, y):
        """The sums of the losses and of the right answers, over a replica's share."""
        x, y = share(x, y)
        logits, y = self.model(x, training=False), tf.cast(y, tf.int64)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))
        right = tf.argmax(logits, -1) == y
        return tf.stack([tf.reduce_sum(tf.cast(each, tf.float64)) for each in (losses, right)])

    def _take_over_the_firsts(self):
        """Broadcast the first replica's values."""
        variables = [v for v in self.model.non_trainable_variables if v.dtype != "string"]
        # float64 holds every float32 and every 32-bit whole number as it is.
        values = [tf.reshape(tf.cast(each.value, tf.float64), (-1,)) for each in variables]
        firsts = tf.split(gathered(tf.concat(values, 0))[0], [len(each) for each in values])
        for variable, first in zip(variables, firsts, strict=True):
            variable.assign(tf.cast(tf.reshape(first, variable.shape), variable.dtype))
