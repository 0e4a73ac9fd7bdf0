"""Moments of the batches of all replicas together."""

import tensorflow as tf

from bnref.functional._moments import Moments, combined
from bnref.functional._replicas import gathered, other_replicas


def over_replicas(moments: Moments) -> Moments:
    r"""Combine each replica's moments into those of the global batch, by one collective.

    .. math:: n = \sum_i n_i, \qquad \mu = \sum_i \frac{n_i}{n} \mu_i, \qquad
              \sigma^2 = \sum_i \frac{n_i}{n}\left(\sigma_i^2 + (\mu_i - \mu)^2\right)

    The replicas' batches may differ in size. Nothing cancels when the mean is large, as it does in
    E[x²] − E[x]². A replica without an example has the weight 0. The gradient costs one collective
    more, for its two sums at once.

    Parameters
    ----------
    moments : Moments
        Of this replica's batch, with one row, or with one a domain, each combined by itself.

    Returns
    -------
    Moments
        The same on every replica. With one replica, or outside of ``strategy.run``, `moments`
        itself.

    Raises
    ------
    ValueError
        `moments` has a row for each group of the batch: group g of one replica has nothing in
        common with group g of another. Pool them first (`Moments.pooled`).

    Notes
    -----
    Chan, Golub & LeVeque 1983, The American Statistician 37, equation 2.1; as a layer, Peng et al.
    2017 (MegDet), arXiv 1711.07240, section 3.3.
    """
    _check(moments)
    replica = other_replicas()
    if replica is None:
        return moments
    counts = moments.count * tf.ones_like(moments.mean)
    own = tf.stack([counts, moments.mean, moments.variance])
    counts, means, variances = tf.unstack(gathered(own), axis=1)
    count = tf.reduce_sum(counts, 0)[:, :1]

    def average(sums):
        return tf.math.divide_no_nan(replica.all_reduce("sum", sums), count)

    mean, variance = combined(counts, means, variances)
    return moments._replace(mean=mean, variance=variance, count=count, average=average)


def mean_over_replicas(moments):
    r"""Mean of the replicas' moments, whatever their counts, by one collective.

    .. math:: \mu = \frac1R\sum_i \mu_i, \qquad \sigma^2 = \frac1R\sum_i \sigma_i^2

    over the R replicas that have an example. The variance lacks that of the replicas' means.

    Parameters
    ----------
    moments : Moments
        Of this replica's batch, each row averaged by itself: groups are as many on each replica,
        and what is remembered of them is their mean.

    Returns
    -------
    Moments
        The same on every replica, to be remembered: no gradient flows through them, and their count
        is R. With one replica, or outside of ``strategy.run``, `moments` itself.
    """
    replica = other_replicas()
    if replica is None:
        return moments
    present = tf.cast(moments.count > 0, moments.mean.dtype)
    own = tf.concat([moments.mean, moments.variance, present], 1)
    sums = replica.all_reduce("sum", tf.math.multiply_no_nan(own, present * tf.ones_like(own)))
    channels = moments.mean.shape[1]
    mean, variance, number = tf.split(sums, [channels, channels, 1], axis=1)
    mean, variance = (tf.math.divide_no_nan(each, number) for each in (mean, variance))
    return moments._replace(mean=mean, variance=variance, count=number, average=None)


def _check(moments):
    if not moments.rows.named and moments.mean.shape[0] != 1:
        raise ValueError(
            "moments must have one row, or one a domain, to be combined over replicas; received "
            f"those of {moments.mean.shape[0]} groups of the batch: pool them first"
        )
