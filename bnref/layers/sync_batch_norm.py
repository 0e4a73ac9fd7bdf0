"""Question 1, whose statistics: those of the global batch, over all replicas."""

import keras

from bnref import functional
from bnref.layers._combining import extends
from bnref.layers.batch_norm import BatchNorm

__all__ = ["SyncBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class SyncBatchNorm(BatchNorm):
    r"""Batch normalization by the statistics of the global batch (synchronized).

    .. math:: \mu = \sum_i \frac{n_i}{n}\mu_i, \qquad
              \sigma^2 = \sum_i \frac{n_i}{n}\left(\sigma_i^2 + (\mu_i - \mu)^2\right)

    Answers **question 1, whose statistics?**, differently: replica i contributes its count, mean
    and variance, and all normalize by the same moments, as one device would that had the whole
    batch. The replicas' batches may differ in size. One collective forward, of 3C numbers a
    replica, and one backward, of 2C. Shapes, arguments and errors are those of `BatchNorm`; with
    one replica it is `BatchNorm`.

    Shown in :doc:`/gallery/variants/plot_replicas_and_whose_statistics`.

    Notes
    -----
    Peng et al. 2017 (MegDet), arXiv 1711.07240, section 3.3. Departs from it by combining the
    moments (Chan, Golub & LeVeque 1983, equation 2.1) instead of summing x and x², which cancels
    where the mean is large.
    """

    _synchronized = True

    @extends
    def batch_moments(self, x, **extra):
        """Whose statistics? All examples of the global batch, over all replicas."""
        return functional.over_replicas(super().batch_moments(x, **extra))
