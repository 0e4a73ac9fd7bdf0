"""Question 2, remembered how: the batches of all replicas, pooled."""

import keras

from bnref import functional
from bnref.layers._combining import extends
from bnref.layers.batch_norm import BatchNorm

__all__ = ["PooledBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class PooledBatchNorm(BatchNorm):
    r"""Each replica normalizes by its own batch; all remember the batches of all.

    .. math:: P \leftarrow \rho P + (1 - \rho) B, \qquad B_{\sigma^2}
              = \sum_i \frac{n_i}{n}\left(\sigma_i^2 + (\mu_i - \mu)^2\right)

    Answers **question 2, remembered how?**, differently. `BatchNorm` on several replicas has a
    population on each, and the first replica's is what is read and saved. Here the population is
    the same on all: the mean over the global batch and its *total* variance, the mean of the
    variances plus the variance of the means. One collective in training, of 3C numbers a replica,
    and none backward. Shapes, arguments and errors are those of `BatchNorm`.

    Shown in :doc:`/gallery/variants/plot_replicas_and_whose_statistics`.

    Notes
    -----
    Chan, Golub & LeVeque 1983, The American Statistician 37, equation 2.1. Averaging the replicas'
    variances, as tf_keras does, leaves out the variance between them.
    """

    not_with = {"ReplicaMeanBatchNorm": "both answer question 2, remembered how, of the replicas"}

    @extends
    def update_population(self, moments):
        """Remembered how? An exponential average of the replicas' batches, pooled."""
        super().update_population(functional.over_replicas(moments.pooled()))
