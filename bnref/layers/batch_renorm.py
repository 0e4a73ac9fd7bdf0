"""Question 3, used when: in training, the batch's, corrected towards the population's."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from bnref.layers._recomputing import recomputing
from bnref.layers._schedule import Schedule
from bnref.layers.batch_norm import BatchNorm

__all__ = ["BatchRenorm"]


@keras.saving.register_keras_serializable(package="bnref")
class BatchRenorm(BatchNorm):
    r"""Batch renormalization: the batch's statistics, corrected towards the population's.

    .. math::
        y = \gamma\left(\frac{x - \mu_B}{\sigma_B} r + d\right) + \beta, \quad
        r = \operatorname{clip}\left(\frac{\sigma_B}{\sigma_P}, \frac1{r_{max}}, r_{max}\right),
        \quad d = \operatorname{clip}\left(\frac{\mu_B - \mu_P}{\sigma_P}, -d_{max}, d_{max}\right)

    with σ = √(σ² + ε). Answers **question 3, used when?**, differently: as far as r and d are not
    clipped, training normalizes by the population as inference does, while the gradient still
    passes through the batch's moments; r and d count as constants. For small batches, and
    batches whose examples depend on one another. Shapes and errors are those of `BatchNorm`.

    Shown in :doc:`/gallery/variants/plot_batch_renorm_and_its_schedules`.

    Parameters
    ----------
    r_max, d_max : float, or sequence of (step, value)
        At least 1 and at least 0. A sequence is a schedule: straight lines between its points,
        constant before the first and after the last, steps rising and values never falling.
        r_max = 1 with d_max = 0 is `BatchNorm`. The default is the paper's schedule.
    **kwargs
        As for `BatchNorm`.

    Attributes
    ----------
    steps : variable, shape ()
        The number of training steps so far, by which the schedules go.

    Raises
    ------
    ValueError
        ``r_max`` below 1, ``d_max`` below 0, a schedule that falls; else as `BatchNorm`.

    Notes
    -----
    Ioffe 2017, arXiv 1702.03275, Algorithm 1 and section 4 (schedules: r_max 1 for 5,000 steps,
    then to 3 at 40,000; d_max 0 for 5,000, then to 5 at 25,000). Departs from it in one thing: it
    averages σ, this layer σ², as its base does. r and d use the population before this step's
    update, as Algorithm 1 does. TensorFlow's ``renorm_momentum``, a second average that r and d go
    by, is not in the paper and not here.
    """

    def __init__(
        self, *, r_max: float | Sequence = ((5000, 1), (40000, 3)),
        d_max: float | Sequence = ((5000, 0), (25000, 5)), **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.r_max = Schedule(r_max, name="r_max", least=1)
        self.d_max = Schedule(d_max, name="d_max", least=0)

    def build(self, input_shape):
        """Create the count of steps besides the base's variables."""
        super().build(input_shape)
        self.steps = self.add_weight(
            shape=(), name="steps", initializer="zeros", trainable=False, dtype="int32"
        )

    def training_moments(self, x, **extra):
        """Used when? In training the batch's, moved by r and d."""
        batch = self.batch_moments(x, **extra)
        correction = self._correction(batch)
        self.after_batch(x, batch)
        return batch._replace(correction=correction)

    def after_batch(self, x, moments):
        """Update the population, and count the step, by which the schedules go."""
        super().after_batch(x, moments)
        if not recomputing():
            self.steps.assign_add(1)

    def _correction(self, batch):
        """The paper's r and d, from the population as it is before this step's update."""
        mean, variance, *_ = super().population_moments()
        deviation = tf.sqrt(variance + self.epsilon)
        r_max, d_max = (
            tf.cast(limit(self.steps.value), mean.dtype) for limit in (self.r_max, self.d_max)
        )
        r = tf.sqrt(batch.variance + self.epsilon) / deviation
        d = (batch.mean - mean) / deviation
        return tf.clip_by_value(r, 1 / r_max, r_max), tf.clip_by_value(d, -d_max, d_max)

    def get_config(self):
        """Arguments that make an equal layer."""
        limits = {"r_max": self.r_max.points, "d_max": self.d_max.points}
        return {**super().get_config(), **limits}
