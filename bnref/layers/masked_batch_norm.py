"""Question 1, whose statistics: those of the steps under a mask."""

import keras
import tensorflow as tf

from bnref import functional
from bnref.functional._inputs import over_positions
from bnref.layers.batch_norm import BatchNorm

__all__ = ["MaskedBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class MaskedBatchNorm(BatchNorm):
    r"""Batch normalization of padded sequences: only the steps that are there are counted.

    .. math:: \mu = \frac{\sum_i w_i x_i}{\sum_i w_i}, \qquad
              \sigma^2 = \frac{\sum_i w_i (x_i - \mu)^2}{\sum_i w_i}, \qquad w_i \in \{0, 1\}

    Answers **question 1, whose statistics?**, differently: a step where ``mask`` is false is not
    read. Its output is 0 and so is its gradient, in training and at inference, and whatever
    stands there, NaN too, changes nothing. The other steps come out as from `BatchNorm` called
    with them alone. Without a mask it is `BatchNorm`.

    The mask comes from Keras (``Masking``, ``Embedding(mask_zero=True)``) or as
    ``layer(x, mask=mask)``: boolean, its shape the beginning of the shape of `x`: (N,), (N, T), …

    Shown in :doc:`/gallery/variants/plot_masked_sequences`.

    Raises
    ------
    ValueError, tf.errors.InvalidArgumentError
        A mask of another shape or type, or, in training, false everywhere; else as `BatchNorm`.

    Notes
    -----
    Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1, over the valid steps. Where the mask
    leaves few steps, the batch is that small: see the notes of `BatchNorm`.
    """

    extra_inputs = ("valid",)

    def batch_moments(self, x, valid=None):
        """Whose statistics? The steps of this replica's batch where the mask is true."""
        return super().batch_moments(x) if valid is None else functional.masked_moments(x, valid)

    def population_moments(self, valid=None):
        """The population, the same for every step."""
        return super().population_moments()

    def call(self, inputs, training=None, mask=None):
        """Normalize the steps under the mask; the others come out as 0."""
        if mask is None:
            return super().call(inputs, training=training)
        valid = over_positions(mask, inputs)
        y = super().call(tf.where(valid, inputs, 0), training=training, mask=mask, valid=mask)
        return tf.where(valid, y, 0)
