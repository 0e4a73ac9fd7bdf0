"""One network, traced once, trained from several seeds.

TensorFlow traces and compiles a training step for the variables it was made with. A page that
compares seeds therefore keeps one network and one optimizer, and gives them new values for each.
"""

from collections.abc import Callable, Sequence

import keras

__all__ = ["restart"]


def restart(
    model: keras.Model | Sequence[keras.Model], optimizer: keras.optimizers.Optimizer,
    network: Callable[[], keras.Model | Sequence[keras.Model]], *, seed: int,
) -> None:  # fmt: skip
    """Bring a model and its optimizer to where a new pair with this seed would begin.

    Sets the seed of Python, NumPy and Keras first, so that what the caller draws next is of this
    seed, too. What was traced with the model and the optimizer stays as it is.

    Parameters
    ----------
    model : keras.Model, or a sequence of models that are trained together
        Gets the variables of a new network: weights, populations, and what dropout draws from.
    optimizer : keras.optimizers.Optimizer
        Built for the model, here if need be. Its step count and its averages begin anew; a learning
        rate that was assigned by hand is kept.
    network : callable () -> keras.Model, or a sequence of models
        Makes a new network of the same architecture.
    seed : int

    Raises
    ------
    ValueError
        The new network has other variables than the model.
    """
    keras.utils.set_random_seed(seed)
    parts = [model] if isinstance(model, keras.Model) else model
    with parts[0].distribute_strategy.scope():
        made = network()
        new_parts = [made] if isinstance(made, keras.Model) else made
        _take_over(_variables(parts), _variables(new_parts), "network")
        new_optimizer = type(optimizer).from_config(optimizer.get_config())
        for each in (optimizer, new_optimizer):
            if not each.built:
                each.build(_variables(parts, trainable=True))
    _take_over(optimizer.variables, new_optimizer.variables, "optimizer")


def _variables(parts, trainable=False):
    """The variables of all parts; one that several of them share once."""
    found = [each.trainable_variables if trainable else each.variables for each in parts]
    return list({id(variable): variable for part in found for variable in part}.values())


def _take_over(variables, news, name):
    """Assign the values of other variables, which must be as many and of the same shapes."""
    shapes, new_shapes = [[tuple(each.shape) for each in some] for some in (variables, news)]
    if shapes != new_shapes:
        raise ValueError(
            f"{name} must have the variables that are trained, of shapes {shapes}; "
            f"received {new_shapes}"
        )
    for variable, value in zip(variables, news, strict=True):
        variable.assign(value)
