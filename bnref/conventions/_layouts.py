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
        with the channels first, so that the rows of the kernel have another order there.

    Returns
    -------
    array
    """
    window = kernel.ndim - 2
    if kind == "depthwise":  # a grouped convolution there, of one input channel a group
        kernel = kernel.reshape(*kernel.shape[:window], 1, math.prod(kernel.shape[window:]))
    if target == "pytorch":
        kernel = channels_first(kernel, flattened)
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
        kernel = channels_last(kernel, flattened)
    elif kind == "transposed":
        kernel = np.flip(kernel, range(window)).swapaxes(-1, -2)
    return kernel.reshape(shape)


def channels_first(rows: np.ndarray, flattened: tuple) -> np.ndarray:
    """Rows of what was flattened with the channels last, in the order of channels first."""
    if not flattened:
        return rows
    places = rows.reshape(*flattened, *rows.shape[1:])
    return np.moveaxis(places, len(flattened) - 1, 0).reshape(rows.shape)


def channels_last(rows: np.ndarray, flattened: tuple) -> np.ndarray:
    """Rows of what was flattened with the channels first, in the order of channels last."""
    if not flattened:
        return rows
    places = rows.reshape(flattened[-1], *flattened[:-1], *rows.shape[1:])
    return np.moveaxis(places, 0, len(flattened) - 1).reshape(rows.shape)
