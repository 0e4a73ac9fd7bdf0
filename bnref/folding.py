"""Folding batch norm into the layer before it, for inference."""

import keras
import numpy as np

from bnref import population
from bnref.layers import BatchNorm, DomainBatchNorm, ExampleWeighingBatchNorm, UntrackedBatchNorm

__all__ = ["fold", "fold_model"]

# Kernels whose last axis is the output channels.
FOLDABLE = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
NOT_A_LINE = (DomainBatchNorm, ExampleWeighingBatchNorm, UntrackedBatchNorm)


def fold(layer: keras.layers.Layer, norm: keras.layers.Layer) -> keras.layers.Layer:
    r"""One layer that does what ``layer`` and then ``norm`` do at inference.

    .. math::
        W' = W \frac{\gamma}{\sqrt{\sigma_P^2+\varepsilon}}, \qquad
        b' = \beta + (b - \mu_P) \frac{\gamma}{\sqrt{\sigma_P^2+\varepsilon}}

    Question 3, *used when?*: at inference the population's statistics are constants, so batch norm
    is a line a channel, and a line after a convolution is a convolution.
    The products are taken in float64 and rounded once.

    Parameters
    ----------
    layer : keras.layers.Dense, Conv1D, Conv2D or Conv3D
        Built, without activation.
    norm : BatchNorm or keras.layers.BatchNormalization
        Built, for the layer's channels; of a kind that normalizes by the population at inference.

    Returns
    -------
    keras.layers.Layer
        Of the type of `layer`, with a bias. `layer` and `norm` stay as they are.

    Raises
    ------
    ValueError
        Another type of layer, an activation between the two, layers not built or of different
        numbers of channels, a norm that is not a fixed line at inference, or one whose variance is
        negative or not finite.

    Notes
    -----
    Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14.
    """
    _check(layer, norm)
    population.check(norm)
    gamma, beta, mean, variance = map(np.float64, _vectors(norm))
    slope = gamma / np.sqrt(variance + norm.epsilon)
    kernel, *bias = map(np.float64, layer.get_weights())
    folded = type(layer).from_config({**layer.get_config(), "use_bias": True})
    groups = getattr(layer, "groups", 1)
    folded.build((None,) * (kernel.ndim - 1) + (kernel.shape[-2] * groups,))
    folded.set_weights([kernel * slope, beta + (sum(bias) - mean) * slope])
    return folded


def fold_model(model: keras.Sequential) -> keras.Sequential:
    """A copy of a Sequential model in which each norm is folded into the layer before it.

    Parameters
    ----------
    model : keras.Sequential
        Built. A norm that does not follow a layer it can be folded into is kept as it is.

    Returns
    -------
    keras.Sequential
        For inference; it shares the layers that were not folded with `model`.

    Raises
    ------
    ValueError
        `model` is not Sequential or not built; no pair was found.
    """
    if not isinstance(model, keras.Sequential) or not model.built:
        raise ValueError(f"model must be a built keras.Sequential; received {model!r}")
    population.check(model)
    kept: list = []
    for layer in model.layers:
        if kept and _is_pair(kept[-1], layer):
            kept[-1] = fold(kept[-1], layer)
        else:
            kept.append(layer)
    if len(kept) == len(model.layers):
        raise ValueError("model must have a norm right after a layer it can be folded into")
    return keras.Sequential([keras.Input(model.input_shape[1:]), *kept])


def _is_pair(layer, norm):
    try:
        _check(layer, norm)
    except ValueError:
        return False
    return True


def _check(layer, norm):
    if type(layer) not in FOLDABLE:
        names = ", ".join(each.__name__ for each in FOLDABLE)
        raise ValueError(f"layer must be one of {names}; received {layer!r}")
    if layer.activation is not keras.activations.linear:
        name = layer.activation.__name__
        raise ValueError(f"layer must have no activation before the norm; received {name!r}")
    if not isinstance(norm, BatchNorm | keras.layers.BatchNormalization):
        raise ValueError(f"norm must be a batch-norm layer; received {norm!r}")
    if isinstance(norm, NOT_A_LINE):
        raise ValueError(f"norm must be a fixed line at inference; {type(norm).__name__} is none")
    if not layer.built or not norm.built:
        raise ValueError("layer and norm must be built: call them, or the model, once")
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise ValueError(f"layer must have channels last; received {layer.data_format!r}")
    if getattr(norm, "axis", -1) not in (-1, norm.input_spec.ndim and norm.input_spec.ndim - 1):
        raise ValueError(f"norm must normalize the last axis; received axis={norm.axis}")
    channels, known = layer.kernel.shape[-1], norm.moving_mean.shape[-1]
    if channels != known:
        raise ValueError(f"norm must have the layer's {channels} channels; received {known}")


def _vectors(norm):
    gamma = 1 if norm.gamma is None else norm.gamma
    beta = 0 if norm.beta is None else norm.beta
    return gamma, beta, norm.moving_mean, norm.moving_variance
