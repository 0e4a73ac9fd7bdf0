"""Question 3, used when: the population's, always."""

import keras

from bnref.layers.batch_norm import BatchNorm

__all__ = ["FrozenBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class FrozenBatchNorm(BatchNorm):
    r"""Batch normalization by the population in training too.

    .. math:: y = \gamma \frac{x - \mu_P}{\sqrt{\sigma_P^2 + \varepsilon}} + \beta

    Answers **question 3, used when?**, differently: always the population's, which never move. The
    layer is a fixed line a channel, the gradient is that of a line, and no example meets another.
    For fine-tuning: take over the weights of a trained model, ``model.set_weights(...)``; a new
    layer normalizes by 0 and 1. γ and β still learn; ``trainable = False`` holds them too.
    Shapes, arguments and errors are those of `BatchNorm`; ``momentum`` is not used.

    Shown in :doc:`/gallery/variants/plot_frozen_batch_norm_in_fine_tuning`.

    Notes
    -----
    ``FrozenBatchNorm2d`` of detectron2 and torchvision, which hold γ and β as well; a `BatchNorm`
    with ``trainable = False`` is that. Wu & Johnson 2021, arXiv 2105.07576, section 4.
    """

    _updates = False

    def training_moments(self, x, **extra):
        """Used when? In training the population's, as it was given."""
        return self.population_moments(**extra)
