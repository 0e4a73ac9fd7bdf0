"""Which population a model is evaluated by: the first replica's, all replicas', or one of its own.

Question 2, *remembered how?*, for the time of an evaluation.
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial

import tensorflow as tf

from bnref import norms
from bnref.functional._replicas import gathered
from bnref.population._passing import Passes
from bnref.population._recomputing import recompute_by


class Populations:
    """What is compiled once to give all replicas of a model one population.

    Parameters
    ----------
    model : keras.Model
    """

    def __init__(self, model):
        self.model, self.strategy = model, model.distribute_strategy
        self.several = self.strategy.num_replicas_in_sync > 1
        self._passes = Passes(model, dropout=True, compiled=True)
        self._agree, self._average = (
            tf.function(partial(self.strategy.run, function))
            for function in (self._take_over_the_firsts, self._take_over_the_mean)
        )

    @contextlib.contextmanager
    def used(self, population) -> Iterator[None]:
        """Within, all replicas infer by it: "first", "mean", or that of batches.

        Only the first replica's is kept by the others; after another each has again what it had,
        the state of dropout included, which the passes of the batches move.
        """
        if isinstance(population, str) and population == "first":
            self.agree()
            yield
            return
        with put_back(self.strategy, self.model.non_trainable_variables):
            if isinstance(population, str):
                self._average()
            else:
                self.agree()
                recompute_by(self._passes, population)
            yield

    @contextlib.contextmanager
    def averaged(self, optimizer, weights, batches) -> Iterator[None]:
        """Within, the model has the averages of its weights, and the population of batches by them.

        Described at `bnref.training.Run.averaged`.
        """
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if not getattr(optimizer, "use_ema", False):
            raise ValueError(
                "optimizer must average the weights, as it does when it is made with use_ema=True; "
                f"received {type(optimizer).__name__} without it"
            )
        check_population(batches, named=())
        with put_back(self.strategy, self.model.variables):
            if int(optimizer.iterations.numpy()):  # before the first step there are no averages
                optimizer.finalize_variable_values(weights)
            self.agree()
            recompute_by(self._passes, batches)
            yield

    def agree(self):
        """Give every replica the first replica's population, and what else is not trained.

        Where each replica remembers its own batches, as with `bnref.layers.BatchNorm`, their
        populations differ, and the first's is what is read and saved. After this it is the one all
        infer by. One collective; nothing is done where there is one replica.
        """
        if self.several and self.model.non_trainable_variables:
            self._agree()

    def _take_over_the_firsts(self):
        """On a replica: what is not trained is as on the first one."""
        variables = [v for v in self.model.non_trainable_variables if v.dtype != "string"]
        for variable, rows in zip(variables, _of_replicas(variables), strict=True):
            variable.assign(tf.cast(rows[0], variable.dtype))

    def _take_over_the_mean(self):
        """On a replica: its population is that of all replicas' together, of equal weight."""
        found = [norm for norm in norms.find(self.model) if norm.variance is not None]
        means = _of_replicas([norm.mean for norm in found])
        variances = _of_replicas([norm.variance for norm in found])
        self._take_over_the_firsts()
        for norm, mean, variance in zip(found, means, variances, strict=True):
            of_all = tf.reduce_mean(mean, 0)
            mixed = tf.reduce_mean(variance + tf.square(mean - of_all), 0)
            norm.assign(tf.cast(of_all, norm.mean.dtype), tf.cast(mixed, norm.variance.dtype))


def check_population(population, *, named=("first", "mean")):
    """Refuse what is neither a name that is accepted nor an iterable of batches."""
    if isinstance(population, str) and population in named:
        return
    no_batches = isinstance(population, str | bytes | dict) or hasattr(population, "shape")
    if no_batches or not isinstance(population, Iterable):
        received = repr(population) if isinstance(population, str) else type(population).__name__
        what = "population must be 'first', 'mean', or" if named else "batches must be"
        how = "batches to recompute it from" if named else "batches of inputs"
        raise ValueError(f"{what} {how}, in a list or a tf.data.Dataset; received {received}")


@contextlib.contextmanager
def put_back(strategy, variables) -> Iterator[None]:
    """Within, variables may change; after it each replica has the values that it had, to the bit.

    Each copy is written by itself, as the replicas' values may differ.
    """
    copies = [
        copy for each in variables for copy in strategy.experimental_local_results(each.value)
    ]
    before = [copy.read_value() for copy in copies]
    try:
        yield
    finally:
        for copy, value in zip(copies, before, strict=True):
            copy.assign(value)


def _of_replicas(variables):
    """On a replica: the values of each variable on all of them, shape (R, ...), as float64.

    One collective. float64 holds every float32 and every 32-bit whole number as it is.
    """
    if not variables:
        return []
    values = [tf.reshape(tf.cast(each.value, tf.float64), (-1,)) for each in variables]
    rows = tf.split(gathered(tf.concat(values, 0)), [len(each) for each in values], axis=1)
    return [
        tf.reshape(each, (-1, *variable.shape))
        for each, variable in zip(rows, variables, strict=True)
    ]
