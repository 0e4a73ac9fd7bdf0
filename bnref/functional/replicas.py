"""Moments of the batches of all replicas together."""

import tensorflow as tf

from bnref.functional.batch import Moments
from bnref.functional.context import other_replicas

__all__ = ["mean_over_replicas", "over_replicas"]


def over_replicas(moments):
    r"""Combine each replica's moments into those of the global batch, by one collective.

    .. math:: n = \sum_i n_i, \qquad \mu = \sum_i \frac{n_i}{n} \mu_i, \qquad
              \sigma^2 = \sum_i \frac{n_i}{n}\left(\sigma_i^2 + (\mu_i - \mu)^2\right)

    The replicas' batches may differ in size. Nothing cancels when the mean is large, as it does in
    E[x²] − E[x]². A replica without an example has the weight 0. The gradient costs one collective
    more, for its two sums at once.

    Parameters
    ----------
    moments : Moments
        Of this replica's batch; mean and variance of shape (C,).

    Returns
    -------
    Moments
        The same on every replica. With one replica, or outside of ``strategy.run``, `moments`
        itself.

    Notes
    -----
    Chan, Golub & LeVeque 1983, The American Statistician 37, equation 2.1; as a layer, Peng et al.
    2017 (MegDet), arXiv 1711.07240, section 3.3.
    """
    replica = other_replicas()
    if replica is None:
        return moments
    counts = tf.fill(tf.shape(moments.mean), moments.count)
    own = tf.stack([counts, moments.mean, moments.variance])
    counts, means, variances = tf.unstack(_of_each(replica, own), axis=1)
    count = tf.reduce_sum(counts[:, 0])
    weights = tf.math.divide_no_nan(counts, count)  # 0 where no replica has an example
    mean = tf.reduce_sum(weights * means, 0)
    spread = variances + tf.math.squared_difference(means, mean)

    def average(sums):
        return tf.math.divide_no_nan(replica.all_reduce("sum", sums), count)

    return Moments(mean, tf.reduce_sum(weights * spread, 0), count, average)


def mean_over_replicas(moments):
    r"""Mean of the replicas' moments, whatever their counts, by one collective.

    .. math:: \mu = \frac1R\sum_i \mu_i, \qquad \sigma^2 = \frac1R\sum_i \sigma_i^2

    over the R replicas that have an example. The variance lacks that of the replicas' means.

    Parameters
    ----------
    moments : Moments
        Of this replica's batch; mean and variance of shape (C,).

    Returns
    -------
    Moments
        The same on every replica, to be remembered: no gradient flows through them, and their count
        is R. With one replica, or outside of ``strategy.run``, `moments` itself.
    """
    replica = other_replicas()
    if replica is None:
        return moments
    present = tf.reshape(tf.cast(moments.count > 0, moments.mean.dtype), (1,))
    sums = replica.all_reduce("sum", tf.concat([moments.mean, moments.variance, present], 0))
    means = tf.math.divide_no_nan(sums, sums[-1])
    mean, variance, _ = tf.split(means, [moments.mean.shape[0]] * 2 + [1])
    return Moments(mean, variance, sums[-1])


def _of_each(replica, own):
    """``own`` of every replica, stacked: a sum in which each fills a row of its own.

    TensorFlow's ``all_gather`` asks for the sizes first, which is a second collective.
    """
    index, number = replica.replica_id_in_sync_group, replica.num_replicas_in_sync
    padding = [[index, number - 1 - index], *[[0, 0]] * own.shape.rank]
    shape = (number, *own.shape)
    return replica.all_reduce("sum", tf.ensure_shape(tf.pad(own[None], padding), shape))
