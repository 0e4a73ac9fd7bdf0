"""Estimators of Precise BN: what becomes of the moments of several batches."""

import numpy as np


def pooled(
    counts: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Moments of all examples of all batches together, whatever the sizes of the batches.

    .. math:: \mu = \frac{\sum_i n_i \mu_i}{\sum_i n_i}, \qquad
              \sigma^2 = \frac{\sum_i n_i\,(\sigma_i^2 + (\mu_i - \mu)^2)}{\sum_i n_i}

    Assumes that every example comes from the same distribution, and no more: the same examples
    split differently give the same result. Equal to the paper's pooled E[x²] − E[x]², without the
    cancellation.

    Parameters
    ----------
    counts : array, shape (K,)
    means, variances : array, shape (K, C)
        Mean and biased variance of each of K batches. An axis of D domains may stand after the
        first; each is pooled by itself.

    Returns
    -------
    mean, variance : array, shape (C,) or (D, C)

    Notes
    -----
    Wu & Johnson 2021, arXiv 2105.07576, section 3 and appendix.
    """
    weights = (counts / np.sum(counts, 0))[..., None]
    mean = np.sum(weights * means, 0)
    return mean, np.sum(weights * (variances + np.square(means - mean)), 0)


def corrected(
    counts: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean of the means, and of the Bessel-corrected variances.

    .. math:: \mu = \frac1K\sum_i \mu_i, \qquad
              \sigma^2 = \frac1K\sum_i \frac{n_i}{n_i - 1}\,\sigma_i^2

    Assumes that the values in a batch are independent: where they are not (neighbouring pixels,
    frames of one utterance) the variance between the batches is missing. Parameters and results
    as for `pooled`; a batch of one value a channel is refused.

    Notes
    -----
    Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 2, step 10.
    """
    if np.min(counts) < 2:
        raise ValueError("variance='corrected' divides by n − 1; a batch had one value a channel")
    factor = (counts / (counts - 1))[..., None]
    return np.mean(means, 0), np.mean(factor * variances, 0)


ESTIMATORS = {"pooled": pooled, "corrected": corrected}
