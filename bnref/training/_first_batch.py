"""What the workers read first, compared: whether all have the same batches, and each has some."""

import zlib

import numpy as np
import tensorflow as tf

from bnref.population._over_workers import of_workers, strategy_of_workers


class FirstBatch:
    """The first batch that this worker reads, in a few numbers, to be compared with the others'.

    Where there are no other workers nothing is done.

    Parameters
    ----------
    model : keras.Model
    whole : bool
        Whether every worker should read the same batches, and not its own.
    """

    def __init__(self, model, *, whole):
        self.strategy = strategy_of_workers(model)
        # What a worker reads of its own is its own affair.
        self.is_compared = self.strategy is not None and whole
        self._digest = np.zeros(0)

    def noted(self, is_first, batch):
        """In a pipeline whose batches are compared: the same batch; the first one is noted.

        By the pipeline itself, since to read a shuffled data set once more would change its order.
        """
        leaves = tf.nest.flatten(batch)
        self._digest = np.zeros(len(leaves) + 1)
        note = tf.cond(
            is_first,
            lambda: tf.numpy_function(self._note, leaves, tf.bool),
            lambda: tf.constant(False),
        )
        with tf.control_dependencies([note]):
            return tf.nest.map_structure(tf.identity, batch)

    def _note(self, *leaves):
        self._digest = np.array([len(leaves[0]), *map(_in_one_number, leaves)])
        return np.bool_(True)

    def compare_emptiness(self, empty):
        """Refuse, on all workers, that one has no batch where others have some.

        Called twice: before the first batch is asked for, with what is known to be empty, as such a
        worker would ask the others whether they have one, and they would not answer; and after it,
        with what has turned out to be.

        Parameters
        ----------
        empty : bool
            This worker's.

        Raises
        ------
        ValueError
        """
        if self.strategy is None:
            return
        without = of_workers(self.strategy, [float(empty)])[:, 0] > 0
        if without.any() and not without.all():
            raise ValueError(
                "x must hold at least one batch on every worker; received none on worker "
                f"{np.argmax(without)} of {len(without)}"
            )

    def compare_what_was_read(self):
        """Refuse, on all workers, that one has read something else; after the first batch.

        Raises
        ------
        ValueError
        """
        if not self.is_compared:
            return
        digests = of_workers(self.strategy, self._digest)
        alike = np.isclose(digests, digests[0], rtol=1e-5, equal_nan=True).all(1)
        if not alike.all():
            raise ValueError(
                "x must give the same global batches on every worker, which keeps its part each; "
                f"worker {np.argmin(alike)} of {len(alike)} received another first batch than "
                "worker 0. If each worker has its own data, give a function of the InputContext in "
                "place of the data set; if it is shuffled or changed at random, give it a seed"
            )


def _in_one_number(values):
    """A sum over the examples that depends on their order, and hardly on rounding."""
    if values.dtype.kind in "biuf":
        sums = np.abs(values.astype("float64")).reshape(len(values), -1).sum(1)
    else:
        sums = np.float64([zlib.crc32(repr(each).encode()) for each in values.tolist()])
    return sums @ np.arange(1, len(sums) + 1)
