"""What each framework calls the arguments and weights of batch norm, and what they mean there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """How one framework writes batch norm down. All normalize by the biased variance.

    Attributes
    ----------
    name : str
        As it is asked for.
    layer : str
        The layer that it describes, in the framework's own words.
    momentum_name, epsilon_name : str
        The names of the two arguments.
    momentum_weighs : {"old", "new"}
        Which value the number multiplies in the moving average.
    momentum, epsilon : float
        The defaults.
    bessel : bool
        Whether the remembered variance is that of the batch times n/(n − 1).
    names : tuple of str
        Of γ, β, the mean and the variance.
    stores : {"variance", "inverse deviation", "sums"}
        What stands under the last name: σ²; 1/√(σ² + ε); or a sum of variances, as that of the
        means, over ``scale_factor``.
    """

    name: str
    layer: str
    momentum_name: str
    epsilon_name: str
    momentum_weighs: str
    momentum: float
    epsilon: float
    bessel: bool
    names: tuple[str, str, str, str]
    stores: str = "variance"


_KERAS = ("gamma", "beta", "moving_mean", "moving_variance")
CONVENTIONS = {
    each.name: each
    for each in (
        Convention(
            "keras", "keras.layers.BatchNormalization (Keras 3)",
            "momentum", "epsilon", "old", 0.99, 1e-3, False, _KERAS,
        ),
        Convention(
            "tf_keras fused", "tf.keras 2 and tf.layers, on images (fused)",
            "momentum", "epsilon", "old", 0.99, 1e-3, True, _KERAS,
        ),
        Convention(
            "tf_keras", "tf.keras 2 and tf.layers, on vectors or with fused=False",
            "momentum", "epsilon", "old", 0.99, 1e-3, False, _KERAS,
        ),
        Convention(
            "pytorch", "torch.nn.BatchNorm1d, 2d, 3d",
            "momentum", "eps", "new", 0.1, 1e-5, True,
            ("weight", "bias", "running_mean", "running_var"),
        ),
        Convention(
            "flax", "flax.linen.BatchNorm, flax.nnx.BatchNorm",
            "momentum", "epsilon", "old", 0.99, 1e-5, False, ("scale", "bias", "mean", "var"),
        ),
        Convention(
            "lasagne", "lasagne.layers.BatchNormLayer",
            "alpha", "epsilon", "new", 0.1, 1e-4, False, ("gamma", "beta", "mean", "inv_std"),
            stores="inverse deviation",
        ),
        Convention(
            "caffe", "BatchNorm, and the Scale layer after it",
            "moving_average_fraction", "eps", "old", 0.999, 1e-5, True,
            ("gamma", "beta", "mean", "variance"), stores="sums",
        ),
        Convention(
            "mxnet", "mxnet.symbol.BatchNorm, on a CPU",
            "momentum", "eps", "old", 0.9, 1e-3, False,
            ("gamma", "beta", "moving_mean", "moving_var"),
        ),
    )
}  # fmt: skip


def convention(argument, name):
    """The convention of this name, or an error that names the argument."""
    if not isinstance(name, str) or name not in CONVENTIONS:
        accepted = ", ".join(map(repr, CONVENTIONS))
        raise ValueError(f"{argument} is {name!r}; accepted are {accepted}")
    return CONVENTIONS[name]
