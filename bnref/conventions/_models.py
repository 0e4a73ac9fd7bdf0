"""All weights of a model, from PyTorch's or Flax's names and layouts to Keras's and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bnref._checks import number
from bnref.conventions._converting import convert_momentum
from bnref.conventions._frameworks import CONVENTIONS
from bnref.conventions._matching import by_names, matched
from bnref.conventions._modules import BETWEEN, KERNELS, read, write
from bnref.conventions._targets import targets
from bnref.conventions._weights import for_keras, of_keras


class PortedModel(NamedTuple):
    """What `port_model` matched, and what the norms should be made with."""

    matched: dict[str, str]
    arguments: dict[str, float]
    differing: dict[str, dict[str, float]]


def port_model(
    model: Any,
    state: Mapping,
    *,
    source: str,
    layers: str = "all",
    names: Mapping[str, str | None] | None = None,
    epsilon: float | None = None,
    momentum: float | None = None,
) -> PortedModel:
    """Give a Keras model the weights of a PyTorch or Flax model; inference becomes the same.

    Nothing is assigned before all was matched and checked. The order and the shapes of the modules
    decide which is whose, for norms, dense layers and convolutions each by themselves.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        Built, of any make; with norms of `bnref.layers`, Keras or tf_keras.
    state : mapping
        PyTorch's ``state_dict``, of tensors on a CPU or arrays; or Flax's variables, a tree of
        ``params`` and ``batch_stats``. Norms are what has a running mean or variance.
    source : {"pytorch", "flax"}
    layers : {"all", "norms"}
        Whether dense layers and convolutions are ported too, with their kernels in Keras's layout
        and in its order after a ``Flatten``, or norms alone, whatever else there is.
    names : dict, optional
        Which module, such as ``"layer1.0.bn1"``, belongs to which layer, by its path, such as
        ``"block1/norm"`` (see `bnref.norms.find`); None leaves a module out. What is not named goes
        by order.
    epsilon, momentum : float, optional
        The source's, in its convention; its defaults unless given. Where a norm of the model has
        another epsilon its variance makes up for it.

    Returns
    -------
    matched : dict
        For each module the path of its layer. To be read: modules of one shape that stand in
        another order are told by nothing else.
    arguments : dict of float
        The momentum and epsilon that norms of the model should be made with.
    differing : dict
        For each norm that has others, by its path, what it has. All three are fields of a named
        tuple.

    Raises
    ------
    ValueError
        Both sides are listed where they do not fit, or where order tells nothing, such as where two
        layers of one shape stand side by side in a residual block: give `names`. And for weights
        that are missing, unknown or not finite, a variance below zero, an epsilon that the variance
        cannot make up for, and a model that is not built or has other weights.

    Notes
    -----
    What the layers do is the model's affair: padding, ``groups``, strides. PyTorch flattens images
    in another order; a ``Flatten`` is seen where the model is a graph of layers, in a subclass not.
    JAX sorts trees as text: Conv_10 is put behind Conv_2 again; where BatchNorm_1 and Block_0 hold
    norms of one shape nothing tells which comes first, and `names` must.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="bn")])
    >>> state = {"0.weight": np.ones(2), "0.bias": np.zeros(2),
    ...          "0.running_mean": np.zeros(2), "0.running_var": np.ones(2)}
    >>> port_model(model, state, source="pytorch")
    PortedModel(matched={'0': 'bn'}, arguments={'momentum': 0.9, 'epsilon': 1e-05},
                differing={'bn': {'momentum': 0.99, 'epsilon': 0.001}})
    """
    there = CONVENTIONS[_framework("source", source)]
    epsilon = number("epsilon", there.epsilon if epsilon is None else epsilon, 0, strictly=True)
    momentum = there.momentum if momentum is None else momentum
    arguments = {
        "momentum": convert_momentum(momentum, source=source, target="keras"),
        "epsilon": epsilon,
    }
    pairs = matched(targets(model, layers), read(state, source), names or {}, layers)
    ready = [for_keras(module, target, source, epsilon) for module, target in pairs]
    for assign in ready:
        assign()
    return PortedModel(
        {module.name: target.path for module, target in pairs},
        arguments,
        _differing([target.norm for _, target in pairs if target.norm is not None], arguments),
    )


def export_model(
    model: Any,
    *,
    target: str,
    layers: str = "all",
    names: Mapping[str, str | None] | None = None,
    epsilon: float | None = None,
) -> dict:
    """The weights of a Keras model under PyTorch's or Flax's names and in their layouts.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        As for `port_model`.
    target : {"pytorch", "flax"}
    layers : {"all", "norms"}
        As for `port_model`.
    names : dict, optional
        Module names and layer paths, as for `port_model`, whose ``matched`` it may be. A layer that
        is not named has its path, with dots between for PyTorch.
    epsilon : float, optional
        That of the target's norms, for which their variance makes up; unless given they must be
        made with the epsilon of each layer.

    Returns
    -------
    dict
        Of arrays: flat, for ``load_state_dict`` once they are tensors; or a tree of ``params`` and
        ``batch_stats``.

    Raises
    ------
    ValueError
        As for `port_model`.
    """
    _framework("target", target)
    epsilon = None if epsilon is None else number("epsilon", epsilon, 0, strictly=True)
    found = targets(model, layers)
    named = {each.path: name for name, each in by_names(found, names or {}).items()}
    modules = []
    for each in found:
        own = each.path.replace("/", BETWEEN[target])
        module = of_keras(each, target, epsilon)
        modules.append(module._replace(name=named.get(each.path, own)))
    used = [each.name for each in modules]
    if twice := sorted({name for name in used if used.count(name) > 1}):
        raise ValueError(f"names: two layers would be called {twice[0]!r}")
    return write(modules, target)


def _framework(argument, name):
    if name not in KERNELS:
        raise ValueError(f"{argument} must be one of {', '.join(KERNELS)}; received {name!r}")
    return name


def _differing(found, arguments):
    own = {norm.path: {"momentum": norm.momentum, "epsilon": norm.epsilon} for norm in found}
    return {path: each for path, each in own.items() if each != arguments}
