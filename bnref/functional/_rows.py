"""Which row of the statistics normalizes which example: equal groups of the batch, or an index.

Statistics always have rows, shape (G, C). The variants of question 1 differ in how the examples are
divided among the rows, and both classes here answer the two things that the formula and its
gradient ask: the row of each example (`spread`), and the sums over the examples of a row (`total`).
"""

from typing import NamedTuple

import tensorflow as tf


class Groups(NamedTuple):
    """Row g normalizes the g-th of so many equal groups of the batch, one after the other.

    One group is the whole batch. The rows are samples of one population: what is remembered is
    their mean, and row g of two replicas has nothing in common.
    """

    number: int = 1

    @property
    def named(self):
        """False: group g of one batch has nothing in common with group g of another."""
        return False

    def split(self, x):
        """Cut `x` into the groups; one group is `x` itself, without an operation."""
        return [x] if self.number == 1 else tf.split(x, self.number)

    def spread(self, rows, x):
        """Row of each example: (G, C) as (C,) or (N, 1, ..., C), to be broadcast with `x`."""
        if self.number == 1:
            return rows[0]
        return _beside(tf.repeat(rows, tf.shape(x)[0] // self.number, axis=0), x)

    def total(self, values):
        """Sums over the values that each row normalizes: (N, ..., C) as (G, C)."""
        every = range(values.shape.rank - 1)
        return tf.stack([tf.reduce_sum(group, every) for group in self.split(values)])


class Index(NamedTuple):
    """Example j is normalized by row ``row[j]``.

    Attributes
    ----------
    row : integer tensor, shape (N,)
    number : int or tensor
        How many rows there are, G.
    named : bool
        Whether a row means the same in every batch and on every replica, as that of a domain does.
        Then each row is remembered, and pooled over replicas, by itself.
    """

    row: tf.Tensor
    number: int
    named: bool = False

    def spread(self, rows, x):
        """Row of each example: (G, C) as (N, 1, ..., C), to be broadcast with `x`."""
        # Gathered as a batch of one: the gradient of a plain gather is an IndexedSlices, which
        # TensorFlow's forward mode cannot handle.
        own = tf.gather(rows[None], self.row[None], axis=1, batch_dims=1)[0]
        return _beside(own, x)

    def total(self, values):
        """Sums over the values that each row normalizes: (N, ..., C) as (G, C)."""
        of_examples = tf.reduce_sum(values, range(1, values.shape.rank - 1))
        return tf.math.unsorted_segment_sum(of_examples, self.row, self.number)


def _beside(vectors, x):
    """Vectors (N, C), one for each example, with axes of size 1 for the positions of `x`."""
    for axis in range(1, x.shape.rank - 1):
        vectors = tf.expand_dims(vectors, axis)
    return vectors
