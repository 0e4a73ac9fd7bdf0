"""Batches of a ``tf.data`` pipeline, shared out to the replicas by their strategy."""

import itertools
import re

import tensorflow as tf

from bnref.training._batches import part
from bnref.training._first_batch import FirstBatch
from bnref.training._structure import check_elements


class Pipeline:
    """A ``tf.data.Dataset`` of global batches, or a function that gives one of shares.

    Parameters
    ----------
    given : tf.data.Dataset or callable (tf.distribute.InputContext) -> tf.data.Dataset
        A data set is read whole by every worker, which keeps its replicas' parts of each batch. A
        function gives each worker what it alone reads: an element is the share of one replica.
    model : keras.Model
    accumulate : int
        Into how many parts a batch is cut, one after the other.
    """

    # Its batches come as each replica's share of them.
    shared = True
    settings = dict.fromkeys(("seed", "batch_size", "carry", "number of examples"))

    def __init__(self, given, model, *, accumulate=1):
        self.given, self.model, self.accumulate = given, model, accumulate
        self.strategy = model.distribute_strategy
        self.whole = isinstance(given, tf.data.Dataset)
        if self.whole:
            check_elements(given.element_spec, model)
        self._first, self._known_empty = FirstBatch(model, whole=self.whole), False

    def steps(self, steps):
        """The number of steps; of a data set whose end is known one pass, unless given."""
        if steps is not None:
            return steps
        known = int(self.given.cardinality()) if self.whole else tf.data.UNKNOWN_CARDINALITY
        if known < 0:
            which = "has no end" if known == tf.data.INFINITE_CARDINALITY else "has no known end"
            raise ValueError(f"steps must be given with data that {which}; received None")
        return known

    def batches(self, *, start=0, once=False):
        """Iterate over what a step is given: so many parts, of each the share of every replica.

        Parameters
        ----------
        start : int
            So many steps are skipped: what they would have been given is read, and not used.
        once : bool
            End with the data, which begin anew otherwise.

        Raises
        ------
        ValueError
            There is no batch; an element of another structure, or inputs that are not finite. Of
            several workers, on all: one has no batch, but in an evaluation, where it may have none;
            or, of a data set, another first batch than the first worker.
        OSError
            The data of a batch, which is named, cannot be read.
        """
        distributed = self.strategy.distribute_datasets_from_function(
            lambda context: self._of_worker(context, start=start, once=once)
        )
        if not once:
            self._first.compare_emptiness(self._known_empty)
        batches = _translated(iter(distributed), start)
        first = next(batches, None)
        if not once:
            self._first.compare_emptiness(first is None)
        if first is None:
            raise ValueError("x must hold at least one batch; received none")
        self._first.compare_what_was_read()
        return itertools.chain([first], batches)

    def _of_worker(self, context, *, start, once):
        """The elements of one worker, for each of its replicas in turn."""
        replicas = context.num_replicas_in_sync // context.num_input_pipelines
        in_a_step = 1 if self.whole else replicas  # elements of the data set
        dataset = self.given if self.whole else self._given_by_the_function(context)
        if once and dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("x must end, to be evaluated; received data without an end: take some")
        dataset = dataset if once else dataset.repeat()
        self._known_empty = int(dataset.cardinality()) == 0
        number = start * in_a_step
        dataset = dataset.enumerate().skip(number)
        if self._first.is_compared:
            noted = self._first.noted
            dataset = dataset.map(lambda i, batch: (i, noted(tf.equal(i, number), batch)))
        dataset = dataset.map(lambda i, batch: self._checked_parts(i // in_a_step + 1, batch))
        if self.whole and context.num_replicas_in_sync > 1:
            first = context.input_pipeline_id * replicas
            dataset = dataset.flat_map(
                lambda *parts: _shares(parts, first, replicas, of=context.num_replicas_in_sync)
            )
        return dataset.prefetch(2 * replicas)

    def _checked_parts(self, number, batch):
        """The parts of an element, in a pipeline that stops with its number if it is unusable."""
        inputs = tf.nest.flatten(batch[0])
        said = "x must be finite; received values that are not in batch"
        checks = [
            tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(each)), [said, number])
            for each in inputs
            if each.dtype.is_floating
        ]
        if self.whole:
            least = f"at least {self.accumulate} examples, the number of parts (accumulate)"
            said = f"x must give batches of {least}; received fewer in batch"
            enough = tf.shape(inputs[0])[0] >= self.accumulate
            checks.append(tf.debugging.Assert(enough, [said, number]))
        with tf.control_dependencies(checks):
            batch = tf.nest.map_structure(tf.identity, batch)
        return tuple(part(batch, i, of=self.accumulate) for i in range(self.accumulate))

    def _given_by_the_function(self, context):
        dataset = self.given(context)
        if not isinstance(dataset, tf.data.Dataset):
            raise ValueError(f"x must return a tf.data.Dataset; received {type(dataset).__name__}")
        check_elements(dataset.element_spec, self.model)
        return dataset


def _shares(parts, first, count, *, of):
    """For each of some replicas, numbered from ``first`` on, its share of each part."""
    numbers = tf.data.Dataset.range(first, first + count, output_type=tf.int32)
    return numbers.map(lambda number: tuple(part(each, number, of=of) for each in parts))


def _translated(iterator, start):
    """The same elements, those after ``start`` others; what is found in them is said in words."""
    number = start
    try:
        for number, each in enumerate(iterator, start=start + 1):  # noqa: B007
            yield each
    except tf.errors.DataLossError as error:
        reason = re.sub(r"\{\{.*?\}\} ", "", str(error).splitlines()[0]).partition(" [Op:")[0]
        raise OSError(
            f"batch {number + 1} of x (from 1) cannot be read: {reason}. TensorFlow does not say "
            "of which file: read each alone, by sum(1 for _ in tf.data.TFRecordDataset(path))"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        said = re.search(r"\[(x must [^\]]*)\] \[(\d+)\]", str(error))
        if said is None:
            raise
        raise ValueError(f"{said[1]} {said[2]} (from 1)") from None
