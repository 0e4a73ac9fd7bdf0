"""Moments of the batches of all replicas together."""

import tensorflow as tf

from bnref.functional.batch import Moments

__all__ = ["over_replicas"]


def over_replicas(moments):
    r"""Combine each replica's moments into those of the global batch, by one collective.

    .. math:: n = \sum_i n_i, \qquad \mu = \sum_i \frac{n_i}{n} \mu_i, \qquad
              \sigma^2 = \sum_i \frac{n_i}{n}\left(\sigma_i^2 + (\mu_i - \mu)^2\right)

    The replicas' batches may differ in size. Nothing cancels when the mean is large, as it does in
    E[x²] − E[x]². The gradient costs one collective more, for its two sums at once.

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
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return moments
    counts = tf.fill(tf.shape(moments.mean), moments.count)
    own = tf.stack([counts, moments.mean, moments.variance])[None]
    # Some strategies lose the static shape on the way.
    gathered = tf.ensure_shape(replica.all_gather(own, axis=0), (None, *own.shape[1:]))
    counts, means, variances = tf.unstack(gathered, axis=1)
    count = tf.reduce_sum(counts[:, 0])
    weights = counts / count
    mean = tf.reduce_sum(weights * means, 0)
    spread = variances + tf.math.squared_difference(means, mean)

    def average(sums):
        return replica.all_reduce("sum", sums) / count

    return Moments(mean, tf.reduce_sum(weights * spread, 0), count, average)
