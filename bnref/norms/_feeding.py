"""What of a batch goes into a model: its inputs, without targets and weights."""

import inspect
from typing import Any


def inputs_of(model: Any, batch: Any) -> tuple:
    """The positional arguments with which a model is called on a batch.

    Parameters
    ----------
    model : keras.Model
    batch : array, list, dict or tuple
        As Keras has it: a tuple is (inputs, targets) or (inputs, targets, weights), and everything
        else is inputs. A tuple of as many arrays as the model has inputs is inputs too. A subclass
        whose ``call`` has several arguments takes a tuple or a list of them, or either within
        (inputs, targets).

    Returns
    -------
    tuple
        One entry for a model of one argument, which may be a list or a dict of inputs; several for
        a subclass whose ``call`` has several.
    """
    inputs, positions = _number_of_inputs(model), _positions(model)
    if positions > 1 and isinstance(batch, list):
        batch = tuple(batch)
    if not isinstance(batch, tuple):
        return (batch,)
    if positions > 1:  # call(self, a, b)
        first = batch[0]
        nested = isinstance(first, tuple | list) and len(first) == positions
        return tuple(first) if nested else batch[:positions]
    if inputs > 1 and len(batch) == inputs and not isinstance(batch[0], tuple | list | dict):
        return (batch,)
    return (batch[0],)


def _number_of_inputs(model):
    """How many tensors a graph of layers takes; 1 where the model does not say."""
    try:
        return max(1, len(model.inputs))
    except (AttributeError, TypeError, ValueError):
        return 1


def _positions(model):
    """How many arguments ``model.call`` must be given."""
    parameters = inspect.signature(model.call).parameters.values()
    needed = [
        each
        for each in parameters
        if each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        and each.name not in ("training", "mask")
    ]
    return len(needed)


def targets_of(model: Any, batch: Any) -> Any:
    """The targets of a batch, or None where it holds inputs only; see `inputs_of`."""
    if not isinstance(batch, tuple) or len(batch) < 2:
        return None
    arguments = inputs_of(model, batch)
    if len(arguments) == 1 and arguments[0] is batch:
        return None
    if len(arguments) > 1 and arguments[0] is batch[0]:
        return batch[len(arguments)] if len(batch) > len(arguments) else None
    return batch[1]
