"""How each framework lays out the kernel of a layer, and back."""

import math

import numpy as np

# What a kernel of Keras has: (in, out) for dense layers, (*window, in, out) for convolutions,
# (*window, channels, multiplier) for depthwise and (*window, out, in) for transposed ones.
# PyTorch has (out, in), (out, in, *window), and (in, out, *window) for transposed ones.


def from_keras(kernel: np.ndarray, kind: str, target: str, flattened: tuple = ()) -> np.ndarray:
    """A kernel of a Keras layer as the target has it.

    Parameters
    ----------
    kernel : array
    kind : {"dense", "conv", "depthwise", "transposed"}
    target : {"pytorch", "flax"}
    flattened : tuple of int
        (*positions, channels) of what was flattened for a dense layer, else empty. PyTorch flattens
        with the channels first, so that the rows of the kernel have another order.

    Returns
    -------
    array
    """
    window = kernel.ndim - 2
    if kind == "depthwise":  # a grouped convolution there, of one input channel a group
        kernel = kernel.reshape(*kernel.shape[:window], 1, math.prod(kernel.shape[window:]))
    if target == "pytorch":
        if flattened:
            kernel = np.moveaxis(kernel.reshape(*flattened, -1), -2, 0)
            kernel = kernel.reshape(-1, kernel.shape[-1])
        kernel = kernel.transpose(window + 1, window, *range(window))
    elif kind == "transposed":  # Flax's is a convolution of what was spread out
        kernel = np.flip(kernel, range(window)).swapaxes(-1, -2)
    return np.ascontiguousarray(kernel)


def to_keras(
    kernel: np.ndarray, kind: str, source: str, shape: tuple, flattened: tuple = ()
) -> np.ndarray:
    """A kernel of another framework as a Keras layer of this shape has it: `from_keras`, undone."""
    window = len(shape) - 2
    if source == "pytorch":
        kernel = kernel.transpose(*range(2, window + 2), 1, 0)
        if flattened:
            first = kernel.reshape(flattened[-1], *flattened[:-1], -1)
            kernel = np.moveaxis(first, 0, -2)
    elif kind == "transposed":
        kernel = np.flip(kernel, range(window)).swapaxes(-1, -2)
    return kernel.reshape(shape)
