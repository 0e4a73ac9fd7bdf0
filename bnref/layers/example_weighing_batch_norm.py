"""Question 3, used when: at inference, the example's own, mixed into the population's."""

import keras
import tensorflow as tf

from bnref import functional
from bnref._checks import is_number
from bnref.layers.batch_norm import BatchNorm

__all__ = ["ExampleWeighingBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class ExampleWeighingBatchNorm(BatchNorm):
    r"""Batch normalization in which an example has a part in its own statistics at inference.

    .. math::
        \mu = \alpha \bar x + (1-\alpha)\mu_P, \qquad
        \sigma^2 = \alpha \overline{x^2} + (1-\alpha)(\sigma_P^2 + \mu_P^2) - \mu^2

    Answers **question 3, used when?**, differently: in training an example is 1/N of the batch it
    is normalized by, at inference it is no part of the population. Here its own moments, over its
    positions, get the weight α at inference. No example meets another. α = 0 is `BatchNorm`.
    Each example has its own moments, so the layer is not a fixed line and cannot be folded.

    Shown in :doc:`/gallery/variants/plot_normalizing_single_examples`.

    Parameters
    ----------
    example_weight : float, 0 ≤ α < 1
        May be set after training (``layer.example_weight = 0.1``), and is best chosen there, on
        validation data; at most 1/N of the training batch is a start.
    **kwargs
        As for `BatchNorm`.

    Raises
    ------
    ValueError
        ``example_weight`` out of range; else as `BatchNorm`.

    Notes
    -----
    Summers & Dinneen 2020, arXiv 1906.03548, section 3.1. σ² is computed as
    α v + (1 − α) σ_P² + α(1 − α)(x̄ − μ_P)², which is the same without the cancellation.
    """

    _fixed = False

    not_with = {
        "DomainBatchNorm": "an example's own moments would need its domain's population",
        "MaskedBatchNorm": "an example's own moments would count the steps that are masked",
    }

    def __init__(self, *, example_weight: float, **kwargs):
        super().__init__(**kwargs)
        self.example_weight = example_weight

    @property
    def example_weight(self):
        """α, the weight of the example's own moments at inference."""
        return self._example_weight

    @example_weight.setter
    def example_weight(self, value):
        if not is_number(value) or not 0 <= value < 1:
            raise ValueError(f"example_weight must be a number in [0, 1); received {value!r}")
        self._example_weight = float(value)

    def inference_moments(self, x):
        """Used when? At inference the population's, mixed with the example's own."""
        weight, own = self.example_weight, functional.moments_of_examples(x)
        mean, variance, *_ = self.population_moments()
        between = weight * (1 - weight) * tf.math.squared_difference(own.mean, mean)
        return own._replace(
            mean=weight * own.mean + (1 - weight) * mean,
            variance=weight * own.variance + (1 - weight) * variance + between,
            # One of the example's n values has the weight α/n in these moments.
            average=lambda sums: weight * own.average(sums),
        )

    def get_config(self):
        """Arguments that make an equal layer."""
        return {**super().get_config(), "example_weight": self.example_weight}
