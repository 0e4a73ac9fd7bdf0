"""Question 2, remembered how: the plain mean of all batches so far."""

import keras
import tensorflow as tf

from bnref.layers.batch_norm import BatchNorm

__all__ = ["CumulativeBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class CumulativeBatchNorm(BatchNorm):
    r"""Batch normalization that remembers the mean of all batches so far.

    .. math:: P_t = \frac1t \sum_{k=1}^t B_k

    Answers **question 2, remembered how?**, differently: every batch counts alike, the first as
    much as the last, so the noise falls as 1/√t and early batches, of weights long gone, are never
    forgotten. Shapes and errors are those of `BatchNorm`; ``momentum`` is not used.

    Shown in :doc:`/gallery/variants/plot_the_moving_average_lags_or_trembles`.

    Attributes
    ----------
    updates : variable, shape ()
        t, the number of batches remembered; one for each domain where there are domains.

    Notes
    -----
    PyTorch's ``momentum=None``. Before the first update the population is 0 and 1.
    """

    def build(self, input_shape):
        """Create the count of updates besides the base's variables."""
        super().build(input_shape)
        self.updates = self.add_weight(
            shape=self._memory_shape(1)[:-1], name="updates", initializer="zeros", trainable=False,
            dtype="int32",
        )  # fmt: skip

    def update_population(self, moments):
        """Remembered how? The mean of all batches so far."""
        self.updates.assign_add(tf.cast(self.present(moments)[..., 0], "int32"))
        self.remember(moments, weight=1 / tf.cast(self.updates.value[..., None], tf.float64))
