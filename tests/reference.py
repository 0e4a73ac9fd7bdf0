"""Batch normalization in float64 NumPy, transcribed from the papers formula by formula.

Nothing here is clever, and nothing here may import bnref or TensorFlow: the tests compare the
package with this file, so a mistake would have to be made twice, in two ways.

Inputs have shape (N, ..., C); sums run over all axes but the last. "B" are batch statistics.
"""

import numpy as np


def moments(x):
    """Mean and biased variance: Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1, lines 1-2."""
    x = _rows(x)
    m = len(x)
    mean = np.sum(x, 0) / m
    variance = np.sum((x - mean) ** 2, 0) / m
    return mean, variance


def normalized_by(mean, variance, x, gamma, beta, *, epsilon):
    """Algorithm 1, lines 3-4, by statistics from anywhere; Algorithm 2, step 11, is the same."""
    x_hat = (np.asarray(x, "float64") - mean) / np.sqrt(variance + epsilon)
    return gamma * x_hat + beta


def batch_norm(x, gamma, beta, *, epsilon):
    """The whole of Algorithm 1, arXiv 1502.03167."""
    return normalized_by(*moments(x), x, gamma, beta, epsilon=epsilon)


def batch_norm_gradient(dy, x, gamma, *, epsilon):
    """The six gradients of arXiv 1502.03167, section 3, in the paper's order: dx, dgamma, dbeta."""
    mean, variance = moments(x)
    shape, x, dy = np.shape(x), _rows(x), _rows(dy)
    m = len(x)
    x_hat = (x - mean) / np.sqrt(variance + epsilon)

    dx_hat = dy * gamma
    dvariance = np.sum(dx_hat * (x - mean), 0) * (-1 / 2) * (variance + epsilon) ** (-3 / 2)
    dmean = (
        np.sum(dx_hat * (-1 / np.sqrt(variance + epsilon)), 0)
        + dvariance * np.sum(-2 * (x - mean), 0) / m
    )
    dx = dx_hat / np.sqrt(variance + epsilon) + dvariance * 2 * (x - mean) / m + dmean / m
    dgamma = np.sum(dy * x_hat, 0)
    dbeta = np.sum(dy, 0)
    return dx.reshape(shape), dgamma, dbeta


def exponential_average(batches, *, momentum, start):
    """P_t = ρᵗ P_0 + Σ (1 - ρ) ρᵗ⁻ᵏ B_k: Keras's ``momentum`` ρ is the weight of the old value."""
    t = len(batches)
    return momentum**t * np.asarray(start, "float64") + _gathered(batches, momentum)


def debiased_average(batches, *, momentum):
    """Zero start divided by 1 - ρᵗ: Kingma & Ba 2015, arXiv 1412.6980, section 3."""
    return _gathered(batches, momentum) / (1 - momentum ** len(batches))


def cumulative_average(batches):
    """P_t = Σ B_k / t: the plain mean of all batches so far, PyTorch's ``momentum=None``."""
    return np.sum(np.asarray(batches, "float64"), 0) / len(batches)


def precise_pooled(batches):
    """E[x²] - E[x]² over all examples together: Wu & Johnson 2021, arXiv 2105.07576, section 3."""
    # Subtracting loses 2·log10(mean/std) of float64's 16 digits: eight at a mean of 10⁴ std.
    x = np.concatenate([_rows(batch) for batch in batches])
    mean = np.mean(x, 0)
    return mean, np.mean(x**2, 0) - mean**2


def precise_corrected(batches):
    """E[μ_B] and E[m/(m-1) σ²_B]: arXiv 1502.03167, Algorithm 2, step 10."""
    means, variances = [], []
    for batch in batches:
        mean, variance = moments(batch)
        m = len(_rows(batch))
        means.append(mean)
        variances.append(m / (m - 1) * variance)
    return sum(means) / len(means), sum(variances) / len(variances)


def _gathered(batches, momentum):
    """Σ (1 - ρ) ρᵗ⁻ᵏ B_k with k from 1 to t, the average that starts at zero."""
    t = len(batches)
    weights = [(1 - momentum) * momentum ** (t - k) for k in range(1, t + 1)]
    return sum(w * np.asarray(b, "float64") for w, b in zip(weights, batches, strict=True))


def _rows(x):
    """`x` as (examples and positions, C)."""
    x = np.asarray(x, "float64")
    return x.reshape(-1, x.shape[-1])
