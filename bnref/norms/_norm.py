"""One batch norm of a model, whichever library wrote it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnref import functional
from bnref.norms._calling import called


class Norm:
    """One batch norm of a model: what it holds, and how it answers the three questions.

    Made by `find`. It reads the layer anew each time, so that it is never out of date.

    Attributes
    ----------
    layer : keras.layers.Layer
        The layer itself.
    path : str
        The names of the layers that hold it and its own, such as ``"base/block1/norm"``.
    library : str
        ``"bnref"``, ``"keras"`` or ``"tf_keras"``; for a layer of another library that has a
        ``moving_mean``, the name of its package.
    sources : tuple of layers
        What its inputs come from, in all of its calls, each once, where the model is a graph of
        layers; empty in a subclassed model, whose calls only a pass can tell.
    whose, remembered, used : str
        Its answers to the three questions.
    """

    def __init__(self, layer: Any, path: str, sources: tuple = ()):
        self.layer, self.path, self.sources = layer, path, sources

    library = ""
    whose = remembered = used = "unknown"
    # What is asked besides: does it average over replicas; does a mask select; does training move
    # the population; is inference one line a channel, the same for every example?
    synchronized = masks = updates = fixed = False
    # What a library's code is known to do: from which |μ|/σ on its variance cancels, whether a mask
    # switches synchronization off, and whether a replica without an example spoils its population.
    cancels_above = 1000.0
    unsynchronized_by_mask = spoilt_without_example = False

    @property
    def gamma(self) -> keras.Variable | None:
        """γ, shape (C,), or None."""
        return getattr(self.layer, "gamma", None)

    @property
    def beta(self) -> keras.Variable | None:
        """β, shape (C,), or None."""
        return getattr(self.layer, "beta", None)

    @property
    def mean(self) -> keras.Variable | None:
        """The population's mean, shape (C,); (D, C) for D domains; None before the first call."""
        return getattr(self.layer, "moving_mean", None)

    @property
    def variance(self) -> keras.Variable | None:
        """The population's variance, of the shape of `mean`."""
        return getattr(self.layer, "moving_variance", None)

    @property
    def epsilon(self) -> float:
        """What is added to the variance; NaN where the layer does not say."""
        return float(getattr(self.layer, "epsilon", np.nan))

    @property
    def momentum(self) -> float:
        """The weight of the old value; NaN where the layer does not say."""
        return float(getattr(self.layer, "momentum", np.nan))

    @property
    def trainable(self) -> bool:
        """Whether the layer is trained; a layer that is not normalizes by its population."""
        return bool(self.layer.trainable)

    @property
    def built(self) -> bool:
        """Whether it has its variables."""
        return self.mean is not None

    @property
    def channels(self) -> int | None:
        """C; None before the first call."""
        return None if self.mean is None else int(self.mean.shape[-1])

    @property
    def axis(self) -> int:
        """The axis of the channels: -1 for the last one, else its number from the first."""
        axis = getattr(self.layer, "axis", -1)
        axis = axis if isinstance(axis, int) else axis[0]
        spec = getattr(self.layer, "input_spec", None)
        ndim = getattr(spec, "ndim", None)
        if ndim is None:
            return axis
        return -1 if axis % ndim == ndim - 1 else axis % ndim

    def examples_together(self, examples: float) -> float:
        """How many of a replica's examples make one set of statistics: all, if it has no groups."""
        return examples

    def moments(self, x: tf.Tensor, mask: tf.Tensor | None = None) -> functional.Moments:
        """Mean and biased variance of each channel of ``x``, over what ``mask`` selects."""
        x = tf.convert_to_tensor(x)
        mask = mask if self.masks else None
        if self.axis != -1:
            if mask is not None:  # the mask's axes are the first ones, the channels' among them
                raise ValueError(f"a mask selects channels of {self.path!r}, of axis {self.axis}")
            # The axis of the channels is moved to the end, where bnref's formulas have it.
            others = [each for each in range(x.shape.rank) if each != self.axis]
            x = tf.transpose(x, [*others, self.axis])
        if mask is None:
            return functional.moments(x)
        return functional.masked_moments(x, tf.cast(mask, tf.bool))

    @contextlib.contextmanager
    def remembering(self, remember: Callable[[functional.Moments], None]) -> Iterator[None]:
        """Within, ``remember(moments)`` is called where the layer would update its population."""

        def call(original, arguments):
            if self.trainable and arguments.arguments.get("training"):
                remember(self.moments(arguments.args[0], arguments.arguments.get("mask")))
            return original(*arguments.args, **arguments.kwargs)

        with called(self.layer, call):
            yield

    def assign(self, mean: np.ndarray, variance: np.ndarray) -> None:
        """Replace the population."""
        self.mean.assign(mean)  # type: ignore[union-attr]
        self.variance.assign(variance)  # type: ignore[union-attr]

    def __repr__(self):
        """Path, class and the three answers."""
        answers = "; ".join((self.whose, self.remembered, self.used))
        return f"<{type(self.layer).__name__} {self.path!r}: {answers}>"
