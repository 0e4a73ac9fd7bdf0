"""A run of training: what belongs together from the first step to the last evaluation."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnref.training._batches import number_of_examples
from bnref.training._evaluation import Evaluation
from bnref.training._loop import Loop
from bnref.training._measuring import Measuring
from bnref.training._step import Step


def train(
    model: keras.Model, x: Any, y: Any = None, *,
    optimizer: keras.optimizers.Optimizer | None = None, loss: Callable | None = None,
    accumulate: int = 1, jit_compile: bool = False, **options,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Train ``model`` for a number of steps and return what was measured on the way.

    Short for ``Run(model, optimizer, loss, accumulate=..., jit_compile=...).train(x, y, ...)``:
    arguments, results and errors are those of `Run` and of `Run.train`, such as ``steps`` and
    ``batch_size``, which must be given with arrays; `x` may be a ``tf.data.Dataset``.
    """
    run = Run(model, optimizer, loss, accumulate=accumulate, jit_compile=jit_compile)
    return run.train(x, y, **options)


def evaluate(
    model: keras.Model, x: Any, y: Any = None, *, sample_weight: Any = None,
    batch_size: int | None = None, population: str | Iterable = "first", metrics: Any = None,
) -> Any:  # fmt: skip
    """Loss and accuracy of ``model``, or metrics, as by `Run.evaluate`, which says what it takes.

    It is made for one call: on one replica nothing is compiled, on several it is in each call. Who
    evaluates often takes that of the run, which is compiled once.
    """
    options = {"batch_size": batch_size, "population": population, "metrics": metrics}
    return Evaluation(model, often=False)(x, y, sample_weight, **options)


class Run(Loop, Measuring):
    r"""A model in training, on one replica or on many: its optimizer, its step, its evaluation.

    Every replica takes the gradient of its share of the mean loss over the global batch,

    .. math:: L = \sum_i \Bigl(\frac1N \sum_{j \in i} \ell_j + \frac{\Omega}{R}\Bigr),

    with N the examples of all R replicas together and Ω the regularizers of the weights, and the
    optimizer adds the R gradients up. What layers add in a pass, by ``add_loss`` or an activity
    regularizer, is taken for a mean over the replica's n examples, and counts n / N. So a step is
    that of one device with the whole batch, even where the replicas' shares are unequal or empty,
    as far as the layers allow: batch norm does if it is `bnref.layers.SyncBatchNorm`; dropout and
    augmentation draw other numbers; and TensorFlow's convolutions on CPUs take no empty share.

    What Keras's layers draw at random (dropout, noise, ``RandomFlip`` and its like) each replica
    draws for itself, where in ``fit`` all draw the same. The same seeds draw the same again, and so
    does a resumed run. Layers that use no ``keras.random.SeedGenerator`` of their own are as Keras
    has them; where every example must keep its numbers on any number of replicas, augment in the
    ``tf.data.Dataset``, by ``tf.image.stateless_random_*`` with a seed for each example.

    Parameters
    ----------
    model : keras.Model
        Built in the scope of its strategy, if there is one.
    optimizer : keras.optimizers.Optimizer, optional
        Made in the same scope; built here for the model's variables. Adam with a learning rate of
        0.001 unless given. With ``keras.optimizers.LossScaleOptimizer`` the loss is scaled, as
        float16 needs, and a step is left out by all replicas where the gradient of any is not
        finite. Its learning rate may be a schedule. What it clips (``clipnorm``, ``clipvalue``,
        ``global_clipnorm``) is the whole gradient, on several replicas too; without accumulation of
        its own there, which Keras applies to each share.
    loss : callable (y, output) -> losses, optional
        One loss an example (an array for each is averaged). Unless given, sparse softmax
        cross-entropy on the logits; of a model that ends in softmax on what softmax was given,
        which is the same (another softmax of that would hardly train). Of several outputs it is
        given all, and all targets; or give a tuple, list or dictionary of losses in the structure
        of the outputs, which are added up, each with the weight that it multiplies by itself.
    accumulate : int, ≥ 1
        The global batch is cut into so many parts, one after the other, whose gradients are added
        up before the weights move: memory for a part, not for the whole. Batch norm sees the
        parts: it normalizes by the statistics of each and remembers each, so that the step is not
        that of the whole batch, whichever layer is used.
    jit_compile : bool
        Compile by XLA. On one replica only, and XLA leaves the checks of the layers out.

    Attributes
    ----------
    model, optimizer, strategy
        The strategy is the one in whose scope the model was built.

    Raises
    ------
    ValueError
        `accumulate` below 1, `jit_compile` on several replicas, an optimizer made outside of the
        strategy's scope or with an option that several replicas cannot have; an activity
        regularizer on several replicas, or with `accumulate`, before Keras 3.14.
    """

    def __init__(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None,
        loss: Callable | None = None, *, accumulate: int = 1, jit_compile: bool = False,
    ):  # fmt: skip
        self.model, self.strategy = model, model.distribute_strategy
        if optimizer is None:
            with self.strategy.scope():
                optimizer = keras.optimizers.Adam(1e-3)
        self.optimizer, self.accumulate = optimizer, accumulate
        self.settings = {}  # which must be the same when the run is resumed
        self._step = Step(model, optimizer, loss, accumulate=accumulate, jit_compile=jit_compile)
        self._evaluation = Evaluation(model, often=True)

    def step(self, x: Any, y: Any, sample_weight: Any = None) -> tf.Tensor:
        """Train on one global batch, and return the mean loss before.

        Moves the weights once, and the populations `accumulate` times. A layer that has been frozen
        or unfrozen counts as it is from the next step on.

        Parameters
        ----------
        x, y : array or tensor, shapes (N, ...), or a tuple, list or dictionary of such
            The whole global batch, of any size; every worker gives the same and uses its share.
            Of several inputs `x` has the structure that the model takes.
        sample_weight : array or tensor, shape (N,) or that of the losses, optional
            The losses are multiplied by it.

        Returns
        -------
        tensor, shape ()

        Raises
        ------
        ValueError
            `x` and `y` of different lengths, fewer examples than `accumulate`; a loss that is one
            number, on several replicas, with weights or for one of several outputs; weights that
            were frozen when the run was made and are trainable now, which the optimizer does not
            know.
        """
        size = number_of_examples(x, y, sample_weight)
        if size < self.accumulate:
            raise ValueError(
                f"accumulate must be at most {size}, the batch; received {self.accumulate}"
            )
        shares = self.step_on_replicas(x, y, sample_weight)
        return shares if self._step.replicas == 1 else self.strategy.reduce("sum", shares, None)

    def step_on_replicas(self, x: Any, y: Any, sample_weight: Any = None) -> tf.Tensor:
        """As `step`, but returns each replica's share of the loss, which need no collective."""
        return self._step((x, y) if sample_weight is None else (x, y, sample_weight))
