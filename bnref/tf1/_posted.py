"""The four functions of the post "two towers", as posted in behaviour, and their repairs.

Each normalizes in training by the moments of its tower's batch, or means to, and at inference by
an average of them. They differ in where the moments are kept and in when the average is updated.
With ``repaired=True`` each has the smallest change that makes it right.

TensorFlow 1 computed the update of a moving average on the device of the average; TensorFlow 2.21
computes it where it is called, on the tower's device, unless it is told. Here it is told.
"""

import tensorflow as tf
from tensorflow.python.training.moving_averages import assign_moving_average

from bnref.tf1._variables import batch_moments, scale_and_shift, statistic

v1 = tf.compat.v1


def stored_moments_norm(
    x: tf.Tensor, training: tf.Tensor, *, scope: str = "bn_conv", decay: float = 0.5,
    epsilon: float = 1e-5, repaired: bool = False,
) -> tf.Tensor:  # fmt: skip
    """Method 1: write the moments into variables, and normalize by what is read back from them.

    Question 3, *used when?*, is answered wrongly: where the variables are on another device than
    the tower, what is read is the value *before* this step's assignment. Besides: no gradient
    passes through mean and variance, the average takes the new or the old moments as a race falls,
    and inference updates both too.

    Repaired, one line differs: it returns the moments themselves, so their gradient passes as
    well. The race of the average and the updates at inference stay; method 3 repaired has neither.

    Parameters
    ----------
    x : tensor, shape (N, ..., C)
    training : tensor, scalar, boolean
    scope : str
        Of the variables.
    decay : float, from 0 to 1
        Weight of the old value in the average: ``momentum`` elsewhere.
    epsilon : float, above 0
    repaired : bool

    Returns
    -------
    tensor, shape (N, ..., C)
    """
    with v1.variable_scope(scope):
        gamma, beta = scale_and_shift(x)
        batch_mean, batch_variance = statistic("batch_mean", x), statistic("batch_var", x)
        mean, variance = batch_moments(x)
        writes = [v1.assign(batch_mean, mean), v1.assign(batch_variance, variance)]
        average = v1.train.ExponentialMovingAverage(decay, zero_debias=False)
        with v1.device(batch_mean.device):
            update = average.apply([batch_mean, batch_variance])

        def from_batch():
            with tf.control_dependencies(writes), tf.control_dependencies([update]):
                if repaired:
                    return tf.identity(mean), tf.identity(variance)
                return tf.identity(batch_mean), tf.identity(batch_variance)  # the wrong line

        def from_population():
            return average.average(batch_mean), average.average(batch_variance)

        used = v1.cond(training, from_batch, from_population)
        return tf.nn.batch_normalization(x, *used, beta, gamma, epsilon)


def assigned_average_norm(
    x: tf.Tensor, training: tf.Tensor, *, scope: str = "bn_conv", decay: float = 0.5,
    epsilon: float = 1e-3, repaired: bool = False,
) -> tf.Tensor:  # fmt: skip
    """Method 2: normalize by the moments themselves; compute the average and assign it.

    Question 2, *remembered how?*: two towers that read the average at the same time assign it one
    after the other, and one update is lost. The averages are trainable variables, so weight decay
    would shrink them.

    Repaired, they are not trainable, and the update is a subtraction, computed on their device: it
    overwrites no other, and hardly any time passes between its reading and its writing.

    Parameters
    ----------
    x, training, scope, decay, epsilon, repaired
        As in `stored_moments_norm`.
    """
    with v1.variable_scope(scope):
        gamma, beta = scale_and_shift(x)
        moments = batch_moments(x)
        names = ("mean_average", "var_average")
        averages = tuple(statistic(name, x, trainable=not repaired) for name in names)

        def updated(average, moment):
            if repaired:
                with v1.device(average.device):
                    change = (1 - decay) * (average - moment)
                    return v1.assign_sub(average, change, use_locking=True)
            return v1.assign(average, decay * average + (1 - decay) * moment)

        def from_batch():
            with tf.control_dependencies(list(map(updated, averages, moments))):
                return tuple(map(tf.identity, moments))

        used = v1.cond(training, from_batch, lambda: averages)
        return tf.nn.batch_normalization(x, *used, beta, gamma, epsilon)


def unconditional_average_norm(
    x: tf.Tensor, training: tf.Tensor, *, scope: str = "bn_conv", decay: float = 0.5,
    epsilon: float = 1e-3, repaired: bool = False,
) -> tf.Tensor:  # fmt: skip
    """Method 3: normalize by the moments; the update is created outside the branch of training.

    Question 2, *remembered how?*: `tf.cond` runs conditionally what its branch creates and nothing
    else, so inference updates the average too. Repaired, the update is created inside.

    Parameters
    ----------
    x, training, scope, decay, epsilon, repaired
        As in `stored_moments_norm`.
    """
    with v1.variable_scope(scope):
        gamma, beta = scale_and_shift(x)
        averages = statistic("batch_mean", x), statistic("batch_var", x)
        moments = batch_moments(x)
        outside = [] if repaired else _update(averages, moments, decay)

        def from_batch():
            with tf.control_dependencies(outside or _update(averages, moments, decay)):
                return tuple(map(tf.identity, moments))

        used = v1.cond(training, from_batch, lambda: averages)
        return tf.nn.batch_normalization(x, *used, beta, gamma, epsilon)


def collected_updates_norm(
    x: tf.Tensor, training: tf.Tensor, *, scope: str = "bn_conv", decay: float = 0.5,
    epsilon: float = 1e-3, repaired: bool = False,
) -> tf.Tensor:  # fmt: skip
    """Method 4: normalize by the moments; leave the update in the collection ``UPDATE_OPS``.

    Question 2, *remembered how?*: the semantics of ``tf.contrib.layers.batch_norm`` in TensorFlow
    1.1, which is gone. Who builds the training step must run the collection, or the average stays
    at mean 0 and variance 1.

    Repaired, the update is tied to the forward pass, as ``updates_collections=None`` did.

    Parameters
    ----------
    x, training, scope, decay, epsilon, repaired
        As in `stored_moments_norm`.
    """
    with v1.variable_scope(scope):
        gamma, beta = scale_and_shift(x)
        averages = statistic("moving_mean", x), statistic("moving_variance", x, initial=1.0)
        moments = batch_moments(x)

        def from_batch():
            with tf.control_dependencies(_update(averages, moments, decay) if repaired else []):
                return tuple(map(tf.identity, moments))

        used = v1.cond(training, from_batch, lambda: averages)
        if not repaired:
            updated = v1.cond(
                training, lambda: _update(averages, moments, decay), lambda: list(averages)
            )
            for each in updated:
                v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, each)
        return tf.nn.batch_normalization(x, *used, beta, gamma, epsilon)


METHODS = {
    1: stored_moments_norm,
    2: assigned_average_norm,
    3: unconditional_average_norm,
    4: collected_updates_norm,
}
"""The functions by their number in the post."""


def _update(averages, moments, decay):
    def update(average, moment):
        with v1.device(average.device):
            return assign_moving_average(average, moment, decay, zero_debias=False)

    return list(map(update, averages, moments))
