"""Folding one norm into the layer before it."""

import keras
import numpy as np

from bnref import norms, population

# Which of a kernel's last two axes have the output's channels. A separable convolution has two
# kernels, and it is the second one's; a depthwise one has some channels for each of its input.
LAST, TRANSPOSED, OF_EACH_INPUT = (-1,), (-2,), (-2, -1)
FOLDABLE = {
    keras.layers.Dense: LAST,
    keras.layers.Conv1D: LAST,
    keras.layers.Conv2D: LAST,
    keras.layers.Conv3D: LAST,
    keras.layers.Conv1DTranspose: TRANSPOSED,
    keras.layers.Conv2DTranspose: TRANSPOSED,
    keras.layers.Conv3DTranspose: TRANSPOSED,
    keras.layers.DepthwiseConv1D: OF_EACH_INPUT,
    keras.layers.DepthwiseConv2D: OF_EACH_INPUT,
    keras.layers.SeparableConv1D: LAST,
    keras.layers.SeparableConv2D: LAST,
}


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
    layer : keras.layers.Layer
        ``Dense``; ``Conv1D``, ``Conv2D`` or ``Conv3D``, or one of these with ``Transpose``;
        ``DepthwiseConv1D`` or ``2D``; ``SeparableConv1D`` or ``2D``, whose second kernel, the
        pointwise one, changes. Built, without activation, channels last.
    norm : keras.layers.Layer
        A batch norm of bnref or Keras. Built, for the layer's channels; of a kind that normalizes
        by the population at inference.

    Returns
    -------
    keras.layers.Layer
        Of the type and the name of `layer`, with a bias. `layer` and `norm` stay as they are.

    Raises
    ------
    ValueError
        Another type of layer, an activation between the two, layers not built, of different
        numbers of channels or of different types of numbers, a norm that is not a fixed line at
        inference, or one whose variance is negative or not finite.

    Notes
    -----
    Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14.
    """
    check(layer, norm)
    population.check(norm)
    (view,) = norms.find(norm)
    gamma = 1.0 if view.gamma is None else np.asarray(view.gamma, np.float64)
    beta = 0.0 if view.beta is None else np.asarray(view.beta, np.float64)
    slope = gamma / np.sqrt(np.asarray(view.variance, np.float64) + view.epsilon)
    *before, kernel, bias = _weights(layer)
    axes = FOLDABLE[type(layer)]
    factor = slope.reshape([kernel.shape[axis] if axis in axes else 1 for axis in (-2, -1)])
    folded = type(layer).from_config({**layer.get_config(), "use_bias": True})
    folded.build(layer.get_build_config()["input_shape"])
    folded.set_weights(
        [*before, kernel * factor, beta + (bias - np.asarray(view.mean, np.float64)) * slope]
    )
    return folded


def check(layer: keras.layers.Layer, norm: keras.layers.Layer) -> None:
    """Refuse a pair that cannot become one layer; the error says why."""
    if type(layer) not in FOLDABLE:
        names = ", ".join(each.__name__ for each in FOLDABLE)
        raise ValueError(f"layer must be one of {names}; received {layer!r}")
    if layer.activation is not keras.activations.linear:
        name = getattr(layer.activation, "__name__", layer.activation)
        raise ValueError(f"layer must have no activation before the norm; received {name!r}")
    found = norms.find(norm)
    if not found or found[0].layer is not norm:
        raise ValueError(f"norm must be a batch-norm layer; received {norm!r}")
    view = found[0]
    if not view.fixed:
        raise ValueError(f"norm must be a fixed line at inference; {type(norm).__name__} is none")
    if not layer.built or not view.built:
        raise ValueError("layer and norm must be built: call them, or the model, once")
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise ValueError(f"layer must have channels last; received {layer.data_format!r}")
    if view.axis != -1:
        raise ValueError(f"norm must normalize the last axis; received axis={norm.axis}")
    if layer.compute_dtype != norm.compute_dtype:
        raise ValueError(
            "layer and norm must compute in the same type; received "
            f"{layer.compute_dtype} and {norm.compute_dtype}"
        )
    channels, known = _weights(layer)[-1].size, view.channels
    if channels != known:
        raise ValueError(f"norm must have the layer's {channels} channels; received {known}")


def _weights(layer):
    """The kernels and the bias, which is 0 where there is none, in float64."""
    weights = [np.asarray(each, np.float64) for each in layer.get_weights()]
    kernels = 2 if hasattr(layer, "pointwise_kernel") else 1
    if len(weights) != kernels + layer.use_bias:
        raise ValueError(
            f"layer must have its kernel and its bias alone, without LoRA and not quantized; "
            f"received {len(weights)} weights of {layer!r}"
        )
    if layer.use_bias:
        return weights
    channels = np.prod([weights[-1].shape[axis] for axis in FOLDABLE[type(layer)]])
    return [*weights, np.zeros(channels)]
