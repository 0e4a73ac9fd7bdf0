"""The weights of one layer of a model, from and to another framework's, checked before use."""

from collections.abc import Callable

import numpy as np

from bnref._checks import finite_array
from bnref.conventions._converting import convert_variance
from bnref.conventions._layouts import channels_first, channels_last, from_keras, to_keras
from bnref.conventions._modules import Module
from bnref.conventions._targets import Target

# What γ and β are where there are none.
NEUTRAL = {"gamma": 1, "beta": 0}


def for_keras(module: Module, target: Target, source: str, epsilon: float) -> Callable[[], None]:
    """What assigns the module's weights to the layer; all checks are made before it is returned.

    Raises
    ------
    ValueError
        A weight is not finite, has another shape, or is missing on one of the two sides; the
        variance is negative, or too small for the layer's epsilon.
    """
    weights = {
        name: finite_array(
            f"{name} of {module.name!r}", value, 0 if name == "variance" else -np.inf
        )
        for name, value in module.weights.items()
    }
    if target.norm is None:
        variables = {"kernel": target.kernel, "bias": target.layer.bias}
        weights["kernel"] = to_keras(
            weights["kernel"], target.kind, source, target.kernel.shape, target.flattened
        )
    else:
        norm = target.norm
        variables = {"gamma": norm.gamma, "beta": norm.beta}
        variables |= {"mean": norm.mean, "variance": norm.variance}
        weights["variance"] = _made_up_for(weights["variance"], module, norm, source, epsilon)
    values = _fitting(weights, variables, module, target)
    if target.norm is not None and source == "pytorch":
        values = {name: channels_last(each, target.flattened) for name, each in values.items()}

    def assign():
        if target.norm is not None:
            target.norm.assign(values.pop("mean"), values.pop("variance"))
        for name, value in values.items():
            variables[name].assign(value)

    return assign


def of_keras(target: Target, framework: str, epsilon: float | None) -> Module:
    """The layer's weights in another framework's layout, under its own path.

    Raises
    ------
    ValueError
        The variance cannot make up for ``epsilon``.
    """
    if target.norm is None:
        kernel = from_keras(np.array(target.kernel), target.kind, framework, target.flattened)
        weights = {"kernel": kernel, "bias": target.layer.bias}
    else:
        norm = target.norm
        variance = _exported(norm, framework, epsilon)
        weights = {"gamma": norm.gamma, "beta": norm.beta, "mean": norm.mean}
        weights["variance"] = variance.astype(np.array(norm.variance).dtype)
        affine = norm.gamma is not None or norm.beta is not None
        if framework == "pytorch" and affine:  # which has both of them or none
            for name, value in NEUTRAL.items():
                if weights[name] is None:
                    weights[name] = np.full_like(weights["variance"], value)
    present = {name: np.array(each) for name, each in weights.items() if each is not None}
    if target.norm is not None and framework == "pytorch":
        present = {name: channels_first(each, target.flattened) for name, each in present.items()}
    return Module(target.path, target.family, present)


def _exported(norm, framework, epsilon):
    """The variance with which another epsilon gives the same inference."""
    try:
        return convert_variance(
            norm.variance, source="keras", target=framework, epsilon=norm.epsilon,
            target_epsilon=epsilon,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"layer {norm.path!r} cannot be exported: {error}") from error


def _made_up_for(variance, module, norm, source, epsilon):
    """The variance with which the layer's own epsilon gives the same inference."""
    try:
        return convert_variance(
            variance, source=source, target="keras", epsilon=epsilon, target_epsilon=norm.epsilon
        )
    except ValueError as error:
        raise ValueError(
            f"layer {norm.path!r} must be made with epsilon={epsilon:g}: it has {norm.epsilon:g}, "
            f"and a variance of {module.name!r}, {variance.min():g}, is too small to make up for it"
        ) from error


def _fitting(weights, variables, module, target):
    """The values for the layer's variables, after a look at both sides' names and shapes."""
    values = {}
    for name, variable in variables.items():
        value = weights.get(name)
        if variable is None:
            if value is not None and (value != NEUTRAL.get(name, 0)).any():
                raise ValueError(
                    f"layer {target.path!r} has no {name}, which {module.name!r} has: build it "
                    f"with {name}"
                )
            continue
        if value is None:
            raise ValueError(
                f"state has no {name} of {module.name!r}, which layer {target.path!r} has: build "
                f"the layer without {name}, or add it to the state"
            )
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"{name} of {module.name!r} must have shape {tuple(variable.shape)} for layer "
                f"{target.path!r}; received {value.shape}"
            )
        values[name] = value
    return values
