"""Question 2, remembered how: an exponential average in which the start value has no part."""

import math

import keras
import tensorflow as tf

from bnref.layers.batch_norm import BatchNorm

__all__ = ["DebiasedBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class DebiasedBatchNorm(BatchNorm):
    r"""Batch normalization whose exponential average is right from the first step on.

    .. math:: P_t = \frac{\sum_{k=1}^t (1-\rho)\rho^{t-k} B_k}{1 - \rho^t}

    Answers **question 2, remembered how?**, differently: the average starts at zero and is divided
    by the weight it has gathered, 1 − ρᵗ, so that after one batch the population is that batch.
    Shapes, arguments and errors are those of `BatchNorm`.

    Shown in :doc:`/gallery/variants/plot_the_moving_average_lags_or_trembles`.

    Attributes
    ----------
    updates : variable, shape ()
        t, the number of batches remembered; one for each domain where there are domains.

    Notes
    -----
    The correction of Adam (Kingma & Ba 2015, arXiv 1412.6980, section 3), and ``zero_debias`` of
    TensorFlow 1's moving averages. Kept as the average itself, in which the t-th batch has the
    weight (1 − ρ)/(1 − ρᵗ): 1/t for small t, 1 − ρ in the end. Before the first update the
    population is 0 and 1.
    """

    def build(self, input_shape):
        """Create the count of updates besides the base's variables."""
        super().build(input_shape)
        self.updates = self.add_weight(
            shape=self._memory_shape(1)[:-1], name="updates", initializer="zeros", trainable=False,
            dtype="int32",
        )  # fmt: skip

    def update_population(self, moments):
        """Remembered how? An exponential average divided by the weight it has gathered."""
        self.updates.assign_add(tf.cast(self.present(moments)[..., 0], "int32"))
        update = tf.cast(self.updates.value[..., None], tf.float64)
        log = tf.constant(math.log(self.momentum) if self.momentum else -math.inf, tf.float64)
        # expm1 keeps the digits that 1 − ρᵗ loses when ρ is close to 1.
        self.remember(moments, weight=tf.math.expm1(log) / tf.math.expm1(update * log))
