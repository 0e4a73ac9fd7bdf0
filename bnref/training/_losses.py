"""The loss that is used unless one is given, from logits or from what softmax made of them."""

import numpy as np
import tensorflow as tf

# Operations after which the values are still those that softmax gave.
_PASSED_ON = ("Cast", "EnsureShape", "Identity", "StopGradient")


def cross_entropy(y, output):
    """Softmax cross-entropy of each prediction with its class number; shape of ``y``."""
    logits = tf.cast(logits_of(output), tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int64), logits)


def combined(loss):
    """One function of targets and outputs: a loss, or the sum of one for each output; or the usual.

    Several losses stand in the structure of the model's outputs, which is that of the targets.
    """
    if loss is None or callable(loss):
        return loss or cross_entropy

    def total(y, output):
        each = tf.nest.map_structure(_one_an_example, loss, y, output, check_types=False)
        return tf.add_n(tf.nest.flatten(each))

    return total


def _one_an_example(loss, y, output):
    losses = tf.cast(loss(y, output), tf.float32)
    if not losses.shape.rank:
        raise ValueError(
            "loss must give one number an example for each output; received one number for all: "
            "make it with reduction=None"
        )
    return mean_of_each(losses)


def mean_of_each(losses):
    """The mean of each example's losses, shape (N,)."""
    return tf.reduce_mean(losses, range(1, losses.shape.rank))


def weighted(losses, weights):
    """The losses times the weights, shape (N,) or one for each axis of the losses; or no weights.

    A weight of (N,) counts for all positions of its example.
    """
    if weights is None:
        return losses
    weights = tf.cast(weights, losses.dtype)
    axes = losses.shape.rank - weights.shape.rank
    return losses * tf.reshape(weights, tf.concat([tf.shape(weights), [1] * axes], 0))


def logits_of(output):
    """The logits: what softmax was given if the output is a softmax's, else the output itself.

    Models of others often end in softmax, such as those of ``keras.applications``, and a softmax
    of a softmax trains badly without a word: it takes a perfect classifier of ten classes for one
    of loss 1.461. Since the logits can be had, nothing is lost by taking such a model, and nobody
    need take it apart; the logarithm of the probabilities themselves would be rounded.
    """
    if isinstance(output, tf.__internal__.EagerTensor):
        return _kept_by_keras(output)
    operation = output.op
    while operation.type in _PASSED_ON:
        operation = operation.inputs[0].op
    return operation.inputs[0] if operation.type == "Softmax" else output


def _kept_by_keras(output):
    """The logits that Keras's softmax leaves at its result; its sigmoid does so too."""
    logits = getattr(output, "_keras_logits", None)
    if logits is None or not np.allclose(tf.nn.softmax(logits), output, atol=1e-2):
        return output
    return logits


def probabilities(output):
    """Whether each row is one of several numbers that are none below 0 and have the sum 1."""
    output = tf.cast(output, tf.float32)
    whole = tf.abs(tf.reduce_sum(output, -1) - 1) < 1e-3
    return whole & tf.reduce_all(output >= 0, -1) & (tf.shape(output)[-1] > 1)
