"""Question 1, whose statistics: those of each group of the batch."""

import keras

from bnref import functional
from bnref._checks import whole_number
from bnref.layers.batch_norm import BatchNorm

__all__ = ["GhostBatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class GhostBatchNorm(BatchNorm):
    r"""Batch normalization of each ghost batch by its own statistics.

    .. math:: \hat x_j = \frac{x_j - \mu_g}{\sqrt{\sigma_g^2 + \varepsilon}}, \qquad
              P \leftarrow \rho P + (1 - \rho) \frac1G \sum_{g=1}^G B_g

    Answers **question 1, whose statistics?**, differently: a batch of N examples is cut into G
    ghost batches of N/G, one after the other, each normalized by itself: the noise of small
    batches at the speed of large ones, and what G replicas do that are not synchronized.

    Shown in :doc:`/gallery/variants/plot_ghost_batches`.

    Parameters
    ----------
    groups : int, ≥ 1
        G. TensorFlow 1's ``virtual_batch_size`` is N/G.
    **kwargs
        As for `BatchNorm`.

    Raises
    ------
    ValueError, tf.errors.InvalidArgumentError
        ``groups`` is no whole number above 0, or does not divide the batch in training; else as
        `BatchNorm`. At inference a batch of any size is accepted.

    Notes
    -----
    Hoffer, Hubara & Soudry 2017, arXiv 1705.08741, Algorithm 1. Departs from it in two things: the
    population takes the mean of the ghost batches' moments in one update, not one update each
    (their weights are then (1 − ρ)ρ^(G − i)), and it averages σ², as its base does, not σ. The
    variance is that of a ghost batch, within which an example is compared with N/G − 1 others;
    `bnref.population.recompute` pools the groups. TensorFlow 1 puts every (N/B)-th example of the
    batch into one group of B, this layer neighbours.
    """

    not_with = {
        "SyncBatchNorm": "group g of one replica has nothing in common with group g of another"
    }

    def __init__(self, *, groups: int, **kwargs):
        super().__init__(**kwargs)
        self.groups = whole_number("groups", groups)

    def batch_moments(self, x):
        """Whose statistics? Each of G equal groups of this replica's batch by itself."""
        return functional.moments_of_groups(x, self.groups)

    def get_config(self):
        """Arguments that make an equal layer."""
        return {**super().get_config(), "groups": self.groups}
