"""Question 3, used when: the batch's, always."""

import keras

from bnref.layers.batch_norm import BatchNorm

__all__ = ["UntrackedBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class UntrackedBatchNorm(BatchNorm):
    r"""Batch normalization by the batch at inference too; nothing is remembered.

    .. math:: y = \gamma \frac{x - \mu_B}{\sqrt{\sigma_B^2 + \varepsilon}} + \beta

    Answers **question 3, used when?**, differently: always the batch's. What one example gives
    depends on which others are asked with it, and a batch of one value a channel gives β whatever
    it is. The population's variables are there, so that weights can be exchanged with `BatchNorm`,
    and stay as they are. Shapes, arguments and errors are those of `BatchNorm`, those of training
    at inference too; ``momentum`` is not used, and ``trainable = False`` holds γ and β only.

    Shown in :doc:`/gallery/variants/plot_normalizing_single_examples`.

    Notes
    -----
    PyTorch's ``track_running_stats=False``; ``batch_norm_full`` of the post "with and without". As
    a cure for test data of another distribution: Nado et al. 2020, arXiv 2006.10963.
    """

    _updates = _fixed = False

    def training_moments(self, x, **extra):
        """Used when? In training the batch's, which is forgotten."""
        return self.batch_moments(x, **extra)

    def inference_moments(self, x, **extra):
        """Used when? At inference the batch's."""
        return self.batch_moments(x, **extra)
