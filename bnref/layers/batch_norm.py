"""Batch normalization, with one hook for each of the three questions a variant answers."""

import math
from numbers import Integral, Real

import keras
import tensorflow as tf

from bnref import functional

__all__ = ["BatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class BatchNorm(keras.layers.Layer):
    r"""Batch normalization (Ioffe & Szegedy 2015), the base of every variant.

    .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    In training :math:`\mu, \sigma^2` are the batch's mean and biased variance, and population
    statistics follow them as P ← ρP + (1 − ρ)B. At inference they are the population's.

    A variant overrides exactly one of three methods:

    1. `batch_moments`: whose statistics?
    2. `update_population`: remembered how?
    3. `normalizing_moments`: used when?

    Parameters
    ----------
    momentum : float, 0 ≤ momentum < 1
        ρ, the weight of the **old** value in the exponential average.
    epsilon : float, > 0
        ε, added to the variance. As in Keras 1e-3; PyTorch and Flax use 1e-5.
    axis : int
        Only -1: channels come last. Given to say so when another is asked for.
    **kwargs
        As for every Keras layer: ``name``, ``dtype``, ``trainable``.

    Attributes
    ----------
    gamma, beta : variable, shape (C,)
        Trained; they start at 1 and 0.
    moving_mean, moving_variance : variable, shape (C,)
        Population statistics; they start at 0 and 1.

    Raises
    ------
    ValueError
        Momentum, epsilon or axis out of range; inputs with fewer than two axes, without a static
        number of channels, with another number of channels than before, not floating point, or,
        in training, without an example.

    Notes
    -----
    arXiv 1502.03167, Algorithms 1 and 2. Departs from Algorithm 2 where every framework does: the
    population is an exponential average, of biased variances, instead of an average over training
    of Bessel-corrected ones; `bnref.population.recompute` gives the paper's. Inputs have
    shape (N, ..., C), outputs the same. All variables and all statistics are float32 (float64
    where the layer's type is), whatever the precision of the inputs. A layer with
    ``trainable = False`` normalizes by its population in training too, as in Keras. A batch of one
    value a channel has variance 0 and comes out as β; NaN and infinity in one example spoil their
    channel for the whole batch, and for the population.

    Examples
    --------
    >>> import bnref, keras
    >>> model = keras.Sequential([keras.layers.Dense(8), bnref.BatchNorm(), keras.layers.ReLU()])
    """

    def __init__(self, *, momentum=0.99, epsilon=1e-3, axis=-1, **kwargs):
        super().__init__(**kwargs)
        if not is_number(momentum) or not 0 <= momentum < 1:
            raise ValueError(f"momentum must be a number in [0, 1); received {momentum!r}")
        if not is_number(epsilon) or not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be a number above 0; received {epsilon!r}")
        if axis != -1:
            raise ValueError(f"axis must be -1, channels last; received {axis!r}: transpose first")
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        self.supports_masking = True

    def build(self, input_shape):
        """Create γ, β and the population for inputs of shape (N, ..., C)."""
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                "the input of a batch-norm layer must have shape (N, ..., C), two axes or more "
                f"and a known number of channels; received {tuple(input_shape)}"
            )
        shape = self._shape(input_shape[-1])
        self.gamma = self._vector(shape, "gamma", "ones", trainable=True)
        self.beta = self._vector(shape, "beta", "zeros", trainable=True)
        self.moving_mean = self._vector(shape, "moving_mean", "zeros", trainable=False)
        self.moving_variance = self._vector(shape, "moving_variance", "ones", trainable=False)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: shape[-1]})

    # What a call may say besides x, for question 1: names such as "mask".
    whose = ()

    def batch_moments(self, x):
        """Whose statistics? All examples of this replica's batch."""
        return functional.moments(x)

    def update_population(self, moments):
        """Remembered how? An exponential average of the batches'."""
        self.remember(moments, weight=1 - self.momentum)

    def normalizing_moments(self, x, *, training, **whose):
        """Used when? In training the batch's, at inference the population's."""
        if not training:
            return self.population_moments(**whose)
        moments = self.batch_moments(x, **whose)
        self.update_population(moments)
        return moments

    def call(self, x, training=False, **whose):
        """Normalize `x`, shape (N, ..., C); in training, update the population too.

        ``whose`` is what a variant needs to know besides, such as a mask; the base knows none.
        """
        if unknown := set(whose) - set(self.whose):
            raise TypeError(f"{type(self).__name__} takes no argument {', '.join(sorted(unknown))}")
        training = bool(training) and self.trainable
        moments = self.normalizing_moments(x, training=training, **whose)
        return functional.normalize(
            x, moments, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta),
            epsilon=self.epsilon,
        )  # fmt: skip

    def remember(self, moments, *, weight):
        """Give the batch's moments the weight ``weight``: P ← (1 − weight) · P + weight · B.

        Where the batch was normalized in parts, B is the mean over the parts. Nothing is remembered
        of a batch without an example, which one of several replicas may get.
        """
        weight = functional.remembered(moments, weight, 0)
        for population, batch in (
            (self.moving_mean, moments.mean),
            (self.moving_variance, moments.variance),
        ):
            batch = tf.reduce_mean(tf.reshape(batch, (-1, *population.shape)), 0)
            # A number stays one: a cast would round it to float32 first.
            share = tf.cast(weight, population.dtype) if tf.is_tensor(weight) else weight
            population.assign((1 - share) * population + share * batch)

    def population_moments(self, **whose):
        """The population statistics, through which no gradient flows."""
        mean, variance = self.moving_mean, self.moving_variance
        return functional.Moments(tf.convert_to_tensor(mean), tf.convert_to_tensor(variance))

    def get_config(self):
        """Arguments that make an equal layer."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}

    def _shape(self, channels):
        return (channels,)

    def _vector(self, shape, name, initializer, *, trainable):
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        return self.add_weight(
            shape=shape, name=name, initializer=initializer, trainable=trainable,
            dtype=dtype, autocast=False,
        )  # fmt: skip


def is_number(value):
    """Whether it is a real number, and no boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


def whole_number(name, value):
    """``value`` as an int, if it is a whole number of at least 1; ``name`` is for the error."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more; received {value!r}")
    return int(value)
