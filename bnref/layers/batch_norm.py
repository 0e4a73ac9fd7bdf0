"""Batch normalization, with one hook for each of the three questions a variant answers."""

import math

import keras
import tensorflow as tf

from bnref import functional
from bnref._checks import is_number
from bnref.layers._channel_layer import ChannelLayer
from bnref.layers._combining import check_combination
from bnref.layers._recomputing import recomputing

__all__ = ["BatchNorm"]


@keras.saving.register_keras_serializable(package="bnref")
class BatchNorm(ChannelLayer):
    r"""Batch normalization (Ioffe & Szegedy 2015), the base of every variant.

    .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    In training :math:`\mu, \sigma^2` are the batch's mean and biased variance, and population
    statistics follow them as P ← ρP + (1 − ρ)B. At inference they are the population's.

    A variant answers one of three questions differently, by overriding its method:

    1. `batch_moments`: whose statistics?
    2. `update_population`: remembered how?
    3. `training_moments` and `inference_moments`: used when?

    Shown in :doc:`/learn/what_it_computes`.

    Parameters
    ----------
    momentum : float, 0 ≤ momentum < 1
        ρ, the weight of the **old** value in the exponential average.
    epsilon : float, > 0
        ε, added to the variance. As in Keras 1e-3; PyTorch and Flax use 1e-5.
    axis : int
        -1, or the number of the last axis, such as 3 for images: channels come last.
    center, scale : bool
        Whether there is a β, and a γ.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer
        As for ``keras.layers.BatchNormalization``.
    beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint
        As for ``keras.layers.BatchNormalization``.
    **kwargs
        As for every Keras layer: ``name``, ``dtype``, ``trainable``.

    Attributes
    ----------
    gamma, beta : variable, shape (C,), or None
        Trained; they start at 1 and 0.
    moving_mean, moving_variance : variable, shape (C,)
        Population statistics; they start at 0 and 1.

    Raises
    ------
    ValueError
        An argument out of range; inputs with fewer than two axes, without a static number of
        channels, with another number of channels than before, not floating point, or, in training,
        without an example; weights that are set or loaded with another shape, or with a variance
        that is negative or not finite.
    TypeError
        A class made of two variants that answer the same question, or that cannot be combined.

    Notes
    -----
    arXiv 1502.03167, Algorithms 1 and 2. Departs from Algorithm 2 where every framework does: the
    population is an exponential average, of biased variances, instead of an average over training
    of Bessel-corrected ones; `bnref.population.recompute` gives the paper's. Inputs have
    shape (N, ..., C), outputs the same. All variables and all statistics are float32 (float64
    where the layer's type is), whatever the precision of the inputs. A layer with
    ``trainable = False`` normalizes by its population in training too, as in Keras. A batch of one
    value a channel has variance 0 and comes out as β, which is said once where the shapes are
    known; NaN and infinity in one example spoil their channel for the whole batch, and for the
    population. A mask is passed on and changes no statistic, which is said once: see
    `MaskedBatchNorm`. What ``tf.recompute_grad`` and ``keras.RematScope`` compute a second time is
    remembered once; for other passes that are not to be remembered see
    `bnref.population.unchanged`. Derivatives of any order are right: see
    `bnref.functional.normalize`.

    Examples
    --------
    >>> import bnref, keras
    >>> model = keras.Sequential([keras.layers.Dense(8), bnref.BatchNorm(), keras.layers.ReLU()])
    """

    def __init__(self, *, momentum: float = 0.99, epsilon: float = 1e-3, **kwargs):
        super().__init__(**kwargs)
        if not is_number(momentum) or not 0 <= momentum < 1:
            raise ValueError(f"momentum must be a number in [0, 1); received {momentum!r}")
        if not is_number(epsilon) or not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be a number above 0; received {epsilon!r}")
        self.momentum, self.epsilon = float(momentum), float(epsilon)

    # What a call may be given besides its inputs, for question 1: names such as "domain".
    extra_inputs: tuple[str, ...] = ()

    # For `bnref.norms`: does training average over the replicas, does it move the population, and
    # is inference one line a channel, the same for every example?
    _synchronized, _updates, _fixed = False, True, True

    def batch_moments(self, x: tf.Tensor) -> functional.Moments:
        """Whose statistics? All examples of this replica's batch."""
        return functional.moments(x)

    def update_population(self, moments: functional.Moments) -> None:
        """Remembered how? An exponential average of the batches'."""
        self.remember(moments, weight=1 - self.momentum)

    def training_moments(self, x: tf.Tensor, **extra) -> functional.Moments:
        """Used when? In training the batch's."""
        moments = self.batch_moments(x, **extra)
        self.after_batch(x, moments)
        return moments

    def inference_moments(self, x: tf.Tensor, **extra) -> functional.Moments:
        """Used when? At inference the population's."""
        return self.population_moments(**extra)

    def call(self, inputs, training=None, mask=None, **extra) -> tf.Tensor:
        """Normalize `inputs`, shape (N, ..., C); in training, update the population too.

        ``extra`` is what a variant needs to know besides, such as a domain; the base knows none.
        """
        if unknown := set(extra) - set(self.extra_inputs):
            raise TypeError(f"{type(self).__name__} takes no argument {', '.join(sorted(unknown))}")
        if training and mask is not None and "valid" not in self.extra_inputs:
            self._say_once("a mask is passed on, and every step counts: see MaskedBatchNorm")
        used = self.training_moments if training and self.trainable else self.inference_moments
        moments = used(inputs, **extra)
        gamma = 1.0 if self.gamma is None else tf.convert_to_tensor(self.gamma)
        beta = 0.0 if self.beta is None else tf.convert_to_tensor(self.beta)
        return functional.normalize(inputs, moments, gamma, beta, epsilon=self.epsilon)

    def after_batch(self, x, moments):
        """Update the population, unless ``tf.recompute_grad`` only repeats an earlier pass."""
        # Read the count only where the shapes say that it may be 1: reading waits for a GPU.
        if x.shape[:-1].num_elements() == moments.mean.shape[0]:
            count = tf.get_static_value(moments.count)
            if count is not None and (count == 1).all():
                self._say_once("a batch of one value a channel comes out as beta, whatever it is")
        if not recomputing():
            self.update_population(moments)

    def remember(self, moments: functional.Moments, *, weight: float | tf.Tensor) -> None:
        """Give the batch's moments the weight ``weight``: P ← (1 − weight) · P + weight · B.

        Where the batch was normalized in groups, B is the mean over the groups.
        """
        mean, variance = self.moving_mean, self.moving_variance
        mean.assign(self.blended(mean, moments.mean, moments, weight))
        variance.assign(self.blended(variance, moments.variance, moments, weight))

    def blended(self, old, batch, moments, weight):
        """(1 − weight) · P + weight · B, and P as it was where there was no example.

        One of several replicas may have none, and a domain may be missing in a batch.
        """
        memory = old.shape  # (C,), or (D, C) for D domains; the rows of groups are averaged
        batch = tf.reduce_mean(tf.reshape(batch, (-1, *memory)), 0)
        # A Python number is not cast: it would be rounded to float32, for float64 too.
        weight = tf.cast(weight, old.dtype) if tf.is_tensor(weight) else weight
        return tf.where(self.present(moments), (1 - weight) * old + weight * batch, old)

    def present(self, moments):
        """Whether there was an example, for each row of the population."""
        return tf.reduce_any(
            tf.reshape(moments.count > 0, (-1, *self.moving_mean.shape[:-1], 1)), 0
        )

    def population_moments(self, **extra) -> functional.Moments:
        """The population statistics, through which no gradient flows."""
        mean, variance = map(tf.convert_to_tensor, (self.moving_mean, self.moving_variance))
        channels = mean.shape[-1]
        return functional.Moments(*(tf.reshape(each, (-1, channels)) for each in (mean, variance)))

    def get_config(self):
        """Arguments that make an equal layer."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}

    def __init_subclass__(cls, **kwargs):
        """Refuse a class of two variants that answer the same question, when it is written."""
        super().__init_subclass__(**kwargs)
        check_combination(cls, BatchNorm)
