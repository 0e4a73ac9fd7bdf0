"""The tower loop of TensorFlow 1's CIFAR-10 multi-GPU tutorial.

One tower a device, each with a share of the batch; variables are shared and lie where the
placement says; the gradients are averaged and applied once.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from bnref.tf1._placement import Placement

v1 = tf.compat.v1
_VARIABLES = {"AutoReloadVariable", "VarHandleOp", "Variable", "VariableV2"}


def on_towers(tower: Callable, *inputs: tf.Tensor, placement: Placement) -> list:
    """Build a tower on each device of a placement, with equal shares of the inputs.

    Parameters
    ----------
    tower : callable (share of each input) -> output
        Called once a tower; makes its variables with ``tf.compat.v1.get_variable``. From the
        second call on it is given those of the first.
    inputs : tensor, shape (N, ...)
        N must be a multiple of the number of towers. One that is not known while the graph is
        built is checked when the graph runs.
    placement : Placement

    Returns
    -------
    list
        The outputs, one a tower.

    Raises
    ------
    ValueError
        Without inputs, or if N is not a multiple of the number of towers.
    tf.errors.InvalidArgumentError
        The same, at run time, for an N that was not known.
    """
    if not inputs:
        raise ValueError("inputs must be one tensor or more, to be shared out; received none")
    with v1.device(placement.variables):
        shares = [_shares(x, len(placement.towers)) for x in inputs]
    outputs = []
    for number, device in enumerate(placement.towers):
        shared = v1.variable_scope(v1.get_variable_scope(), reuse=number > 0)
        with (
            v1.device(_but_variables(device, placement)),
            v1.name_scope(f"tower_{number}"),
            shared,
        ):
            outputs.append(tower(*(share[number] for share in shares)))
    return outputs


def training_step(
    losses: Sequence[tf.Tensor], *, optimizer: tf.compat.v1.train.Optimizer, placement: Placement
) -> tf.Operation:
    """Average the gradients of the towers' losses and apply them once.

    What is in the collection ``UPDATE_OPS``, of all towers, runs with it, and the global step
    advances if the graph has one.

    Parameters
    ----------
    losses : list of scalar float tensors
        As `on_towers` returned them, one a tower.
    optimizer : tf.compat.v1.train.Optimizer
    placement : Placement

    Returns
    -------
    tf.Operation

    Raises
    ------
    ValueError
        If a loss is no scalar or there is not one a tower; if nothing is to be trained.
    """
    if len(losses) != len(placement.towers):
        raise ValueError(
            f"losses must be one a tower; received {len(losses)} for {len(placement.towers)} towers"
        )
    gradients = []
    for number, (loss, device) in enumerate(zip(losses, placement.towers, strict=True)):
        _check_scalar(f"losses[{number}]", loss)
        with v1.device(_but_variables(device, placement)), v1.name_scope(f"gradients_{number}"):
            gradients.append(optimizer.compute_gradients(loss))
    with v1.device(placement.variables):
        apply = optimizer.apply_gradients(
            average_gradients(gradients), global_step=v1.train.get_global_step()
        )
        return tf.group(apply, *v1.get_collection(v1.GraphKeys.UPDATE_OPS))


def average_gradients(towers):
    """Average each variable's gradient over the towers.

    Parameters
    ----------
    towers : list of lists of (gradient, variable)
        As ``Optimizer.compute_gradients`` returns them, one list a tower, in the same order.

    Returns
    -------
    list of (gradient, variable)
        Without the variables that have no gradient; where one tower has none, it counts as 0.

    Raises
    ------
    ValueError
        If the towers have different variables, or none of them a gradient.
    """
    averaged = []
    for pairs in zip(*towers, strict=True):
        gradients, variables = zip(*pairs, strict=True)
        if any(each is not variables[0] for each in variables):
            names = ", ".join(each.name for each in variables)
            raise ValueError(f"towers must share their variables; received {names}")
        present = [tf.convert_to_tensor(each) for each in gradients if each is not None]
        if present:
            averaged.append((tf.add_n(present) / len(gradients), variables[0]))
    if not averaged:
        raise ValueError("towers must have trainable variables with a gradient; there are none")
    return averaged


def _shares(x, towers):
    if x.shape[0] is None:
        message = f"the batch must be a multiple of the number of towers, {towers}"
        check = v1.assert_equal(tf.shape(x)[0] % towers, 0, message=message)
        with tf.control_dependencies([check]):
            return tf.split(tf.identity(x), towers)
    if x.shape[0] % towers:
        raise ValueError(
            f"the batch must be a multiple of the number of towers, {towers}; received {x.shape[0]}"
        )
    return tf.split(x, towers)


def _but_variables(device, placement):
    """A device function: variables where the placement says, all else on the tower's device."""

    def device_of(operation):
        if operation.device:  # what the tower placed itself
            return operation.device
        return placement.variables if operation.type in _VARIABLES else device

    return device_of


def _check_scalar(name, loss):
    if loss.shape.rank != 0 or not loss.dtype.is_floating:
        raise ValueError(
            f"{name} must be a scalar of a floating type; received shape {loss.shape}, "
            f"{loss.dtype.name}"
        )
