"""A look at what is stored."""

from collections.abc import Container

import keras

from bnref import norms
from bnref._checks import stored_variance


def check(model: keras.layers.Layer, *, without: Container = ()) -> None:
    """Refuse a population whose variance is negative or not finite, in any layer of ``model``.

    Averaging weights as if they were all alike, a server's optimizer, or one batch that overflowed
    can leave one behind. `bnref.training.evaluate`, `bnref.folding.fold` and `recompute` ask it.

    Parameters
    ----------
    model : keras.Model or layer
        Norms of any library are looked at.
    without : collection of layers
        Not looked at.

    Raises
    ------
    ValueError
        Names the layer, the channels and a value.
    """
    for norm in norms.find(model):
        if norm.variance is not None and norm.layer not in without:
            stored_variance(norm.layer.name, norm.variance)
