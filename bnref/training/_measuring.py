"""What a run is asked while it trains: how good the model is, by which population."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from bnref.training._evaluation import Evaluation
from bnref.training._step import Step


class Measuring:
    """The measurements of a `bnref.training.Run`."""

    optimizer: keras.optimizers.Optimizer
    _step: Step
    _evaluation: Evaluation

    def evaluate(
        self, x: Any, y: Any = None, *, sample_weight: Any = None, batch_size: int | None = None,
        population: str | Iterable = "first", metrics: Any = None,
    ) -> Any:  # fmt: skip
        r"""Loss and accuracy at inference, or metrics, every example counted once.

        On several replicas each takes its share of every batch, and all use the same population.

        Parameters
        ----------
        x : array, shape (N, ...), finite; or a tuple, list or dictionary of such
        y : array, shape (N,), or (N, T) for logits of shape (N, T, classes)
            Class numbers; with `metrics` what they take, in the structure of the outputs.
        sample_weight : array, shape of `y` or (N,), optional
            All are means with these weights, of a sum above 0.
        batch_size : int
            How many are passed at a time, over all replicas; it does not change the result. 500
            unless given. `x` may be a ``tf.data.Dataset`` or a function of the ``InputContext``, as
            for `train`, that ends; `y`, `sample_weight` and `batch_size` are not given with it.
        population : {"first", "mean"} or iterable of batches
            Which one is used, in all norms. *The first* replica's is the one that is saved: the
            others take it over, and keep it. The two others are for this evaluation alone: after
            it, and after an error, every replica has again what it had, to the bit.

            *The mean* is that of a mixture of the R replicas' populations, of equal weight:

            .. math:: \mu = \frac1R\sum_i \mu_i, \qquad
                      \sigma^2 = \frac1R\sum_i \left(\sigma_i^2 + (\mu_i - \mu)^2\right)

            Of *batches* it is the one that `bnref.population.recompute` finds in them, pooled; a
            generator is used up by one evaluation. That need not lower the loss: weights that were
            trained by small batches have learnt with their variances, which are smaller.
        metrics : metric or function, or a list or dictionary of such, optional
            Metrics of Keras (``keras.metrics.AUC(from_logits=True)``) or of a class derived from
            theirs, made outside of the strategy's scope; or functions (y, output) of which the mean
            over the examples is taken. Each is given the model's output as it is, so that what
            wants probabilities must be told of logits. They are counted in one place: every process
            collects the outputs of all replicas, a batch at a time, so that any metric is as exact
            as on one device, with replicas that get nothing of a batch too. Reset before and after.

            For a model of one output a list; of several a list or dictionary in their structure,
            each entry of which may be a list, and in a list None. One that stands alone is given
            all outputs and all targets.

        Returns
        -------
        loss, accuracy : float
            Mean softmax cross-entropy, and accuracy. With `metrics` a dictionary by their names in
            place of the two: floats, or arrays where a metric has several numbers. The same
            whatever the number of replicas and workers, but for rounding.

        Raises
        ------
        ValueError
            `batch_size`, `population`, `x` or `y` out of range; batches that `recompute` refuses; a
            layer whose moving variance is negative or not finite: named with its channels; outputs
            that are probabilities by another function than Keras's softmax; metrics of one name,
            of another structure, or made inside the strategy's scope.
        """
        options = {"batch_size": batch_size, "population": population, "metrics": metrics}
        return self._evaluation(x, y, sample_weight, **options)

    @contextlib.contextmanager
    def averaged(self, batches: Iterable) -> Iterator[None]:
        """Within, the model has its averaged weights, with statistics of their own.

        For an optimizer with ``use_ema=True``, which averages the weights and leaves the statistics
        of the last ones. Those of the averages are recomputed. ::

            with run.averaged(batches):
                loss, accuracy = run.evaluate(x, y)
                run.model.save("averaged.keras")

        Afterwards, and after an error, every replica has again what it had, to the bit: weights,
        population, the state of dropout. So nothing is trained within. Before the first step there
        is no average, and the weights are what they are. On several replicas the averages are those
        of one device; of several workers each must ask for them.

        Parameters
        ----------
        batches : iterable
            As for `bnref.population.recompute`. A generator is used up by the first time.

        Raises
        ------
        ValueError
            The optimizer averages no weights, or the batches are refused, as by `recompute`.
        """
        averages = self._evaluation.populations.averaged
        with averages(self.optimizer, self._step.weights, batches):
            yield
