"""Question 2, remembered how: the mean of what the replicas' batches say."""

import keras

from bnref.functional._over_replicas import mean_over_replicas
from bnref.layers._combining import extends
from bnref.layers.batch_norm import BatchNorm

__all__ = ["ReplicaMeanBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class ReplicaMeanBatchNorm(BatchNorm):
    r"""Each replica normalizes by its own batch; all remember the mean of the replicas' moments.

    .. math:: P \leftarrow \rho P + (1 - \rho) B, \qquad B_\mu = \frac1R\sum_i \mu_i, \qquad
              B_{\sigma^2} = \frac1R\sum_i \sigma_i^2

    Answers **question 2, remembered how?**, differently, as tf_keras does. The population is the
    same on all replicas. Its variance is the one *within* a replica, the mean of those by which
    the replicas were normalized; what lies between the replicas' means is left out, which
    `PooledBatchNorm` counts. The replicas that have an example weigh alike, however many they have.
    One collective in training, of 2C + 1 numbers, and none backward. Shapes, arguments and errors
    are those of `BatchNorm`.

    Shown in :doc:`/gallery/multi_gpu/plot_what_several_replicas_remember`.

    Notes
    -----
    ``tf_keras.layers.BatchNormalization``, whose moving statistics have the aggregation "mean".
    Departs from it in leaving out a replica without an example, whose moments are NaN there.
    """

    @extends
    def update_population(self, moments):
        """Remembered how? An exponential average of the replicas' moments, averaged."""
        super().update_population(mean_over_replicas(moments))
