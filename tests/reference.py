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


def parts(x, groups):
    """Equal parts of the batch, one after the other: Hoffer et al. 2017, arXiv 1705.08741, Alg. 1,
    "scatter"."""
    x = np.asarray(x, "float64")
    size = len(x) // groups
    return [x[g * size : (g + 1) * size] for g in range(groups)]


def ghost_batch_norm(x, gamma, beta, *, groups, epsilon):
    """Each ghost batch by its own statistics: arXiv 1705.08741, Algorithm 1, training phase."""
    each = [batch_norm(part, gamma, beta, epsilon=epsilon) for part in parts(x, groups)]
    return np.concatenate(each)


def ghost_gradient(dy, x, gamma, *, groups, epsilon):
    """The gradients of `ghost_batch_norm`: those of each ghost batch; γ and β serve all of them."""
    pairs = zip(parts(dy, groups), parts(x, groups), strict=True)
    each = [batch_norm_gradient(part_dy, part, gamma, epsilon=epsilon) for part_dy, part in pairs]
    dx, dgamma, dbeta = zip(*each, strict=True)
    return np.concatenate(dx), sum(dgamma), sum(dbeta)


def ghost_population(start, batches, *, groups, momentum, sequential):
    """(mean, variance) after the batches, arXiv 1705.08741, Algorithm 1, "run".

    In sequence every ghost batch is an update of its own, P ← ρP + (1-ρ)B_g; otherwise the mean of
    a batch's ghosts is one update.
    """
    population = [np.asarray(each, "float64") for each in start]
    for x in batches:
        ghosts = [np.array(moments(part)) for part in parts(x, groups)]
        for batch in ghosts if sequential else [sum(ghosts) / groups]:
            population = momentum * np.array(population) + (1 - momentum) * batch
    return population


def renorm_correction(x, mean, sigma, *, r_max, d_max, epsilon):
    """r and d by the population before the update: Ioffe 2017, arXiv 1702.03275, Algorithm 1."""
    mean_b, variance_b = moments(x)
    sigma_b = np.sqrt(epsilon + variance_b)
    r = np.clip(sigma_b / sigma, 1 / r_max, r_max)
    d = np.clip((mean_b - mean) / sigma, -d_max, d_max)
    return r, d


def batch_renorm(x, gamma, beta, r, d, *, epsilon):
    """x̂ = (x - μ_B)/σ_B · r + d; y = γx̂ + β: arXiv 1702.03275, Algorithm 1."""
    mean_b, variance_b = moments(x)
    sigma_b = np.sqrt(epsilon + variance_b)
    x_hat = (np.asarray(x, "float64") - mean_b) / sigma_b * r + d
    return gamma * x_hat + beta


def batch_renorm_gradient(dy, x, gamma, r, d, *, epsilon):
    """The six gradients of arXiv 1702.03275, section 3, r and d constant: dx, dgamma, dbeta."""
    mean_b, variance_b = moments(x)
    shape, x, dy = np.shape(x), _rows(x), _rows(dy)
    m = len(x)
    sigma_b = np.sqrt(epsilon + variance_b)
    x_hat = (x - mean_b) / sigma_b * r + d

    dx_hat = dy * gamma
    dsigma_b = np.sum(dx_hat * (x - mean_b) * (-r / sigma_b**2), 0)
    dmean_b = np.sum(dx_hat * (-r / sigma_b), 0)
    dx = dx_hat * r / sigma_b + dsigma_b * (x - mean_b) / (m * sigma_b) + dmean_b / m
    dgamma = np.sum(dy * x_hat, 0)
    dbeta = np.sum(dy, 0)
    return dx.reshape(shape), dgamma, dbeta


def renorm_population_of_deviations(start, batches, *, momentum, epsilon):
    """(μ, σ) after the batches: μ += α(μ_B - μ), σ += α(σ_B - σ), arXiv 1702.03275, Algorithm 1."""
    mean, sigma = (np.asarray(each, "float64") for each in start)
    for x in batches:
        mean_b, variance_b = moments(x)
        mean = mean + (1 - momentum) * (mean_b - mean)
        sigma = sigma + (1 - momentum) * (np.sqrt(epsilon + variance_b) - sigma)
    return mean, sigma


def masked_batch_norm(x, mask, gamma, beta, *, epsilon):
    """Ioffe & Szegedy 2015, Algorithm 1, for the steps of the mask alone; 0 elsewhere."""
    y = np.zeros(np.shape(x))
    y[mask] = batch_norm(np.asarray(x)[mask], gamma, beta, epsilon=epsilon)
    return y


def masked_gradient(dy, x, mask, gamma, *, epsilon):
    """The gradients of `masked_batch_norm`: those of the steps of the mask, 0 elsewhere."""
    dx = np.zeros(np.shape(x))
    dx[mask], dgamma, dbeta = batch_norm_gradient(dy[mask], x[mask], gamma, epsilon=epsilon)
    return dx, dgamma, dbeta


def domain_batch_norm(x, domain, gamma, beta, *, epsilon):
    """One batch norm a domain: Chang et al. 2019, arXiv 1906.03950, section 3.1, equations 2-4."""
    y = np.zeros(np.shape(x))
    for d in np.unique(domain):
        own = domain == d
        y[own] = batch_norm(x[own], gamma[d], beta[d], epsilon=epsilon)
    return y


def domain_gradient(dy, x, domain, gamma, *, epsilon):
    """The gradients of `domain_batch_norm`; a domain that is not there has none."""
    dx, dgamma, dbeta = np.zeros(np.shape(x)), np.zeros(gamma.shape), np.zeros(gamma.shape)
    for d in np.unique(domain):
        own = domain == d
        dx[own], dgamma[d], dbeta[d] = batch_norm_gradient(
            dy[own], x[own], gamma[d], epsilon=epsilon
        )
    return dx, dgamma, dbeta


def domain_population(start, batches, domains, *, momentum):
    """P_d ← ρP_d + (1-ρ)B_d where domain d is in the batch: arXiv 1906.03950, 3.1, eq. 5."""
    mean, variance = (np.array(each, "float64") for each in start)
    for x, domain in zip(batches, domains, strict=True):
        for d in np.unique(domain):
            mean_b, variance_b = moments(x[domain == d])
            mean[d] = momentum * mean[d] + (1 - momentum) * mean_b
            variance[d] = momentum * variance[d] + (1 - momentum) * variance_b
    return mean, variance


def synchronized(batches, gamma, beta, *, epsilon):
    """The replicas' batches as one batch: Peng et al. 2017, arXiv 1711.07240, section 3.3.

    Literally concatenated; the outputs are given back to each replica.
    """
    y = batch_norm(np.concatenate(batches), gamma, beta, epsilon=epsilon)
    return np.split(y, np.cumsum([len(x) for x in batches])[:-1])


def synchronized_gradient(gradients, batches, gamma, *, epsilon):
    """dx of each replica; the sums over its own examples for γ and β are each replica's own."""
    x, dy = (np.concatenate(each).astype("float64") for each in (batches, gradients))
    mean, variance = moments(x)
    ends = np.cumsum([len(each) for each in batches])[:-1]
    dx = np.split(batch_norm_gradient(dy, x, gamma, epsilon=epsilon)[0], ends)
    x_hats = np.split((x - mean) / np.sqrt(variance + epsilon), ends)
    dgamma = [np.sum(_rows(g * h), 0) for g, h in zip(gradients, x_hats, strict=True)]
    return list(zip(dx, dgamma, [np.sum(_rows(g), 0) for g in gradients], strict=True))


def lasagne_population(start, batches, *, alpha, epsilon):
    """(mean, inv_std) as in Lasagne's ``BatchNormLayer.get_output_for``, line for line:

    ``(1 - alpha) * running_mean + alpha * input_mean``, the same for ``inv_std``, of which
    ``input_inv_std = T.inv(T.sqrt(input.var(axes) + epsilon))``.
    """
    running_mean, running_inv_std = (np.asarray(each, "float64") for each in start)
    for x in batches:
        input_mean, input_var = moments(x)
        input_inv_std = 1 / np.sqrt(input_var + epsilon)
        running_mean = (1 - alpha) * running_mean + alpha * input_mean
        running_inv_std = (1 - alpha) * running_inv_std + alpha * input_inv_std
    return running_mean, running_inv_std


def example_weighing(x, gamma, beta, mean, variance, *, weight, epsilon):
    """Summers & Dinneen 2020, arXiv 1906.03548, section 3.1, equations 4-6, by E[x²]."""
    x = np.asarray(x, "float64")
    y = np.empty(x.shape)
    for j, example in enumerate(x):
        positions = _rows(example)
        own_mean = np.mean(positions, 0)
        own_square = np.mean(positions**2, 0)
        mu = weight * own_mean + (1 - weight) * mean
        sigma_square = weight * own_square + (1 - weight) * (variance + mean**2) - mu**2
        y[j] = gamma * (example - mu) / np.sqrt(sigma_square + epsilon) + beta
    return y


def folded(kernel, bias, gamma, beta, mean, variance, *, epsilon):
    """W γ/√(σ²+ε) and β + (b - μ)γ/√(σ²+ε): Jacob et al. 2018, arXiv 1712.05877, equation 14."""
    scale = np.asarray(gamma, "float64") / np.sqrt(np.asarray(variance, "float64") + epsilon)
    return kernel * scale, beta + (bias - np.asarray(mean, "float64")) * scale


def _gathered(batches, momentum):
    """Σ (1 - ρ) ρᵗ⁻ᵏ B_k with k from 1 to t, the average that starts at zero."""
    t = len(batches)
    weights = [(1 - momentum) * momentum ** (t - k) for k in range(1, t + 1)]
    return sum(w * np.asarray(b, "float64") for w, b in zip(weights, batches, strict=True))


def _rows(x):
    """`x` as (examples and positions, C)."""
    x = np.asarray(x, "float64")
    return x.reshape(-1, x.shape[-1])
