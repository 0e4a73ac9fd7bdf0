"""Question 2, remembered how: an average of 1/σ instead of σ²."""

import keras
import tensorflow as tf

from bnref.layers.batch_norm import BatchNorm

__all__ = ["LasagneBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class LasagneBatchNorm(BatchNorm):
    r"""Batch normalization that remembers 1/σ, as Lasagne's ``BatchNormLayer``.

    .. math:: I \leftarrow (1 - \alpha) I + \frac{\alpha}{\sqrt{\sigma_B^2 + \varepsilon}},
              \qquad y = \gamma (x - \mu_P)\, I + \beta \quad \text{at inference}

    Answers **question 2, remembered how?**, differently: what is averaged is the factor by which a
    batch was multiplied, so small variances weigh more: 1/I² is below the mean of the variances.
    Shapes, arguments and errors are those of `BatchNorm`, with Lasagne's defaults: ``momentum``
    0.9, the weight of the **old** value, is its ``alpha`` of 0.1; ``epsilon`` is 1e-4.

    Shown in :doc:`/gallery/variants/plot_averaging_one_over_sigma`.

    Attributes
    ----------
    moving_variance : variable, shape (C,)
        1/I² − ε, so that it can be exchanged for other layers'; I itself is
        1/√(moving_variance + ε).

    Notes
    -----
    ``lasagne/layers/normalization.py``, version 0.2.dev1. Departs from it in what it starts with: I
    is 1/√(1 + ε) there is 1.
    """

    def __init__(self, *, momentum: float = 0.9, epsilon: float = 1e-4, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def update_population(self, moments):
        """Remembered how? An exponential average of the means and of 1/√(σ² + ε)."""
        weight = 1 - self.momentum
        mean = self.blended(self.moving_mean, moments.mean, moments, weight)
        self.moving_mean.assign(mean)
        old, new = (
            tf.math.rsqrt(each + self.epsilon) for each in (self.moving_variance, moments.variance)
        )
        inverse = self.blended(old, new, moments, weight)
        # Rounding would leave something just below 0 of a channel without variance.
        variance = tf.maximum(1 / tf.square(inverse) - self.epsilon, 0)
        self.moving_variance.assign(tf.where(self.present(moments), variance, self.moving_variance))
