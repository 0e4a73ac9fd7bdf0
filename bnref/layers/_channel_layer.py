"""A Keras layer with a scale, a shift and statistics for each channel.

What is Keras's stands here, not what is batch norm: arguments, variables, shapes, configuration,
and what is loaded.
"""

import warnings
from numbers import Integral

import keras

from bnref._checks import stored_variance
from bnref.layers._stored import of_another_kind

# Arguments that may be the name of a Keras object, and the module that makes an object of it.
_OBJECTS = {
    "beta_initializer": keras.initializers, "gamma_initializer": keras.initializers,
    "moving_mean_initializer": keras.initializers,
    "moving_variance_initializer": keras.initializers,
    "beta_regularizer": keras.regularizers, "gamma_regularizer": keras.regularizers,
    "beta_constraint": keras.constraints, "gamma_constraint": keras.constraints,
}  # fmt: skip


class ChannelLayer(keras.layers.Layer):
    """What `bnref.layers.BatchNorm` stands on; its arguments are described there."""

    def __init__(
        self, *, axis=-1, center=True, scale=True, beta_initializer="zeros",
        gamma_initializer="ones", moving_mean_initializer="zeros",
        moving_variance_initializer="ones", beta_regularizer=None, gamma_regularizer=None,
        beta_constraint=None, gamma_constraint=None, **kwargs,
    ):  # fmt: skip
        given = {name: value for name, value in locals().items() if name in _OBJECTS}
        super().__init__(**kwargs)
        if not isinstance(axis, Integral) or isinstance(axis, bool) or (axis < 1 and axis != -1):
            raise ValueError(
                f"axis must be -1, or the number of the last axis; received {axis!r}: transpose "
                "inputs whose channels come elsewhere"
            )
        for name, value in {"center": center, "scale": scale}.items():
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False; received {value!r}")
        self.axis, self.center, self.scale = int(axis), center, scale
        for name, value in given.items():
            setattr(self, name, _OBJECTS[name].get(value))
        self.supports_masking = True
        self.gamma = self.beta = None
        self._warned = set()

    def build(self, input_shape):
        """Create γ, β and the population for inputs of shape (N, ..., C)."""
        rank = len(input_shape)
        if rank < 2 or input_shape[-1] is None:
            raise ValueError(
                "the input of a batch-norm layer must have shape (N, ..., C), two axes or more "
                f"and a known number of channels; received {tuple(input_shape)}"
            )
        if self.axis not in (-1, rank - 1):
            raise ValueError(
                f"axis must be -1 or {rank - 1}, the last one of an input of shape "
                f"{tuple(input_shape)}; received {self.axis}: transpose first"
            )
        shape = self._memory_shape(input_shape[-1])
        if self.scale:
            self.gamma = self._vector(shape, "gamma", trainable=True)
        if self.center:
            self.beta = self._vector(shape, "beta", trainable=True)
        self.moving_mean = self._vector(shape, "moving_mean", trainable=False)
        self.moving_variance = self._vector(shape, "moving_variance", trainable=False)
        self.input_spec = keras.layers.InputSpec(
            min_ndim=2, ndim=None if self.axis == -1 else rank, axes={-1: shape[-1]}
        )

    def compute_output_shape(self, input_shape):
        """Return the shape of the input, which is that of the output."""
        return tuple(input_shape)

    def get_config(self):
        """Arguments that make an equal layer."""
        config = {"axis": self.axis, "center": self.center, "scale": self.scale}
        objects = {name: kind.serialize(getattr(self, name)) for name, kind in _OBJECTS.items()}
        return {**super().get_config(), **config, **objects}

    def set_weights(self, weights):
        """Set all variables from a list of arrays, if shapes and variance are possible."""
        if len(weights) == len(self.weights):
            self._check(self.weights, weights)
        super().set_weights(weights)

    def load_own_variables(self, store):
        """Load all variables from a file, if their shapes and the variance are possible.

        The file may be that of another kind of batch norm, such as Keras's, in whose place this one
        came. What only this kind counts stays as it is then.
        """
        variables = self._trainable_variables + self._non_trainable_variables
        stored = store if len(store) else of_another_kind(store, self.name)
        shared = [self.gamma, self.beta, self.moving_mean, self.moving_variance]
        if len(stored) < len(variables):
            variables = [each for each in variables if any(each is one for one in shared)]
        if len(stored) != len(variables):
            super().load_own_variables(store)  # which says how many there should be
            return
        values = [stored[str(i)] for i in range(len(variables))]
        self._check(variables, values)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _check(self, variables, values):
        for variable, value in zip(variables, values, strict=True):
            if tuple(variable.shape) != tuple(value.shape):
                raise ValueError(
                    f"{variable.name} of layer {self.name!r} must have the shape "
                    f"{tuple(variable.shape)}; received {tuple(value.shape)}"
                )
            if variable is self.moving_variance:
                stored_variance(self.name, value)

    def _say_once(self, message):
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"layer {self.name!r}: {message}", stacklevel=3)

    def _memory_shape(self, channels):
        return (channels,)

    def _vector(self, shape, name, *, trainable):
        options = {
            key: getattr(self, f"{name}_{key}", None)
            for key in ("initializer", "regularizer", "constraint")
        }
        # Statistics are float32 at least, whatever the precision of the inputs.
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        return self.add_weight(
            shape=shape, name=name, trainable=trainable, dtype=dtype, autocast=False, **options
        )
