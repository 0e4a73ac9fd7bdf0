"""Loss and accuracy by the population that is saved, on one replica or on many."""

import itertools

import numpy as np
import tensorflow as tf

from bnref import population
from bnref._checks import whole_number
from bnref.functional._replicas import gathered
from bnref.training._batches import check_data, check_finite, in_host_memory, share
from bnref.training._losses import cross_entropy, logits_of, probabilities


class Evaluation:
    """What is compiled once to evaluate a model, and to make its replicas agree.

    Parameters
    ----------
    model : keras.Model
        From inputs to logits, or to what softmax makes of them.
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
        totals, size = np.zeros(3), len(y)
        # Batches of nearly equal sizes: a small last one could leave replicas without an example.
        ends = np.linspace(0, size, -(-size // batch_size) + 1).astype(int)
        for number, (start, end) in enumerate(itertools.pairwise(ends), start=1):
            own_x, own_y = tf.nest.map_structure(lambda each, a=start, b=end: each[a:b], (x, y))
            check_finite(own_x, batch=number, examples=range(start, end))
            batch = in_host_memory((own_x, own_y))
            totals += self.strategy.reduce("sum", self._sums(*batch), axis=None)
        loss, accuracy, probable = totals / np.size(y)
        if probable == 1:
            raise ValueError(
                "model must give logits, or end in a softmax of Keras's; received outputs that are "
                "all 0 or more and have the sum 1: leave the softmax out, as the loss has it"
            )
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
        """The sums of the losses, of the right answers and of what is no logits, over a share."""
        x, y = share((x, y))
        output, y = self.model(x, training=False), tf.cast(y, tf.int64)
        right = tf.argmax(output, -1) == y
        found = cross_entropy(y, output), right, probabilities(logits_of(output))
        return tf.stack([tf.reduce_sum(tf.cast(each, tf.float64)) for each in found])

    def _take_over_the_firsts(self):
        """Broadcast the first replica's values."""
        variables = [v for v in self.model.non_trainable_variables if v.dtype != "string"]
        # float64 holds every float32 and every 32-bit whole number as it is.
        values = [tf.reshape(tf.cast(each.value, tf.float64), (-1,)) for each in variables]
        firsts = tf.split(gathered(tf.concat(values, 0))[0], [len(each) for each in values])
        for variable, first in zip(variables, firsts, strict=True):
            variable.assign(tf.cast(tf.reshape(first, variable.shape), variable.dtype))
