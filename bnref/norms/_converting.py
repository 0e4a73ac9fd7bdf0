"""The norms of a model, replaced by those of another kind."""

from collections.abc import Callable, Collection
from typing import Any

import keras

from bnref.norms._finding import find, walk
from bnref.norms._making import in_place_of
from bnref.norms._norm import Norm
from bnref.norms._replacing import Replacing


def convert(
    model: Any,
    to: type | Callable[[Norm], Any],
    *,
    only: Collection[str] | None = None,
    **options: Any,
) -> Any:
    """Replace the norms of a model by those of another kind, with the same variables.

    A new norm has the name, the type of numbers, momentum, ε, center and scale, initializers,
    regularizers and constraints of the one in whose place it comes; γ, β and the population; and it
    is frozen if that one is. So the outputs at inference stay the same wherever both kinds
    normalize by the population there, and the order of the weights stays too.

    Parameters
    ----------
    model : keras.Model or layer
        Of Keras 3, and built. A functional or Sequential model, with others in it, is made anew,
        and the old one stays as it is; they share no variable. A subclassed model, or a layer of
        your own, is changed itself, wherever its attributes hold a norm, also in lists, tuples and
        dicts. In a new model too, norms are replaced in ``TimeDistributed`` and in layers of your
        own, in copies of these. A norm that is used in several places is replaced by one.
    to : class or function
        Such as `bnref.layers.SyncBatchNorm` or ``keras.layers.BatchNormalization``; or a function
        that makes the new layer of a `Norm`, which chooses its name and arguments itself.
        ``keras.layers.GroupNormalization`` takes over γ and β, and the population is lost. What a
        kind counts, such as the steps of `bnref.layers.BatchRenorm`, starts at 0.
    only : collection of str, optional
        The paths of the norms to replace, as `find` names them; all of them otherwise.
    **options
        Arguments of the class, which go before those of the old norm: ``groups=4``.

    Returns
    -------
    keras.Model or layer
        A new model; a subclassed one itself.

    Raises
    ------
    ValueError
        `model` has no norm; `only` names none of its; something cannot be replaced. All that
        cannot is named in one error, before anything is changed: a norm that is not built, or of
        tf_keras or another library; one whose channels are not the last axis, for bnref's layers;
        a kind with statistics of another shape, such as `bnref.layers.DomainBatchNorm`; a layer
        that would be copied and whose ``get_config`` does not tell how; a functional or Sequential
        model whose class has a ``call`` of its own.

    Notes
    -----
    The result is not compiled: neither optimizer nor metrics are carried over.

    A ``.weights.h5`` file that was saved before can be loaded where all norms are converted to a
    kind of bnref or to Keras's own. Keras numbers the layers of each class in such a file, so that
    after a conversion of some norms only, and in the other direction, load first and convert then.

    Examples
    --------
    >>> import bnref, keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn")])
    >>> norm = find(convert(model, bnref.GhostBatchNorm, groups=2))[0]
    >>> norm.path, type(norm.layer).__name__, norm.momentum
    ('bn', 'GhostBatchNorm', 0.99)
    """
    if not callable(to):
        raise ValueError(f"to must be a class of layers, or a function of a norm; received {to!r}")
    if options and not isinstance(to, type):
        raise ValueError(f"options go with a class; received {', '.join(options)} with a function")
    wanted = _wanted(model, only)
    pairs, problems = [], []
    for norm in wanted:
        try:
            pairs.append((norm.layer, in_place_of(norm, to, options)))
        except ValueError as error:
            problems.append(f"{norm.path}: {error}")
    replacing = Replacing(pairs)
    problems += replacing.refused(model)
    if problems:
        raise ValueError("these cannot be replaced:\n" + "\n".join(problems))
    converted = replacing.in_model(model)
    if converted is model:
        _forget_compiled(model)
    return converted


def _wanted(model, only):
    """The norms to replace."""
    found = find(model)
    if not found:
        raise ValueError("model must have a norm; it has none")
    if only is None:
        return found
    if isinstance(only, str):
        raise ValueError(f"only must be a collection of paths; received the string {only!r}")
    paths = [norm.path for norm in found]
    if unknown := sorted(set(only) - set(paths)):
        raise ValueError(f"only must name norms of model, {', '.join(paths)}; received {unknown}")
    return [norm for norm in found if norm.path in only]


def _forget_compiled(model):
    """Let nothing that was traced, or made for the old variables, be used again."""
    for _, each in walk(model):
        if isinstance(each, keras.Model):
            each.compiled = False
            each.train_function = each.test_function = each.predict_function = None
