"""Remembered how: faults of the population."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import bnref
from bnref_gallery.sick_models._networks import classes, compiled, copied, dense, fitted, trained

SAVED = keras.saving.register_keras_serializable(package="bnref_gallery")


def never_updated():
    model = trained()
    wrong = copied(model)
    for norm in bnref.norms.find(wrong):
        norm.assign(np.zeros(norm.channels), np.ones(norm.channels))
    return (wrong, classes()), (model, classes())


def impossible_population():
    model = trained()
    wrong = copied(model)
    variance = bnref.norms.find(wrong)[0].variance
    variance.assign(np.where(np.arange(32) == 3, -0.2, variance))
    return (wrong, classes()), (model, classes())


def few_steps():
    x, y = classes(256)
    sick = fitted(dense(momentum=0.99), x, y, epochs=2)
    bnref.population.recompute(healthy := fitted(dense(momentum=0.99), x, y, epochs=2), [x])
    return (sick, (x, y)), (healthy, (x, y))


def half_precision_population():
    x, y = classes()
    healthy = trained()
    keras.config.set_dtype_policy("float16")
    try:
        sick = dense()
    finally:
        keras.config.set_dtype_policy("float32")
    sick.set_weights(healthy.get_weights())
    return (sick, (x, y)), (healthy, (x, y))


def stale_population():
    """A model whose inputs were scaled anew after it was trained, as by another preprocessing."""
    x, y = classes()
    model = trained()
    return (model, (2 * x + 3, y)), (model, (x, y))


def momentum_of_another_framework():
    return (trained(momentum=0.1), classes()), (trained(momentum=0.9), classes())


def trembling_average():
    x, y = classes()
    sick = fitted(dense(momentum=0.5), x, y, batch_size=8, epochs=2)
    return (sick, (x, y), None, 8), (trained(), (x, y), None, 32)


def weights_averaged_without_statistics():
    x, y = classes()
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = dense(momentum=0.9)
        # The average of weights so far apart that the statistics of the last do not fit it.
        compiled(model, rate=0.1, use_ema=True, ema_momentum=0.99)
        models.append(fitted(model, x, y, epochs=2))
    bnref.population.recompute(models[1], np.split(x, 8))
    return (models[0], (x, y)), (models[1], (x, y))


def dropout_before():
    data = classes()
    sick = fitted(dense(before=[lambda: layers.Dropout(0.5)]), *data)
    return (sick, data), (trained(), data)


@SAVED
class OfAnotherName(layers.BatchNormalization):
    """Calls ε ``eps``, as PyTorch does, and does not say so to what is saved."""

    def __init__(self, eps=1e-3, **options):
        super().__init__(**options)
        self.epsilon = eps


@SAVED
class OfAnotherNameSaved(OfAnotherName):
    """Says it."""

    def get_config(self):
        return {**super().get_config(), "eps": self.epsilon}


def saved_model_differs():
    data = classes()
    return (trained(norm=OfAnotherName, eps=0.05), data), (
        trained(norm=OfAnotherNameSaved, eps=0.05),
        data,
    )


@SAVED
class Debiased(layers.BatchNormalization):
    """Divides what is left of the start out of its mean, by a number of steps of its own."""

    def build(self, shape):
        super().build(shape)
        self.steps = self.counter()

    def counter(self):
        """Not among the variables that Keras knows, so that it is not saved."""
        return tf.Variable(0.0)

    def call(self, x, training=None):
        if training:
            self.steps.assign_add(1.0)
            return super().call(x, training=True)
        mean = self.moving_mean / (1 - self.momentum ** tf.maximum(self.steps, 1.0))
        return tf.nn.batch_normalization(
            x, mean, self.moving_variance, self.beta, self.gamma, self.epsilon
        )


@SAVED
class DebiasedSaved(Debiased):
    """Counts in a variable that is saved."""

    def counter(self):
        return self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")


def counts_in_a_variable_that_is_not_saved():
    data = classes()
    return (trained(norm=Debiased), data), (trained(norm=DebiasedSaved), data)


def epsilon_of_another_framework():
    x, y = classes(scale=3e-3)
    x = x - x.mean(0)
    healthy = fitted(dense(epsilon=1e-5), x, y)
    sick = copied(healthy)
    for norm in bnref.norms.find(sick):
        norm.layer.epsilon = 1e-3
    return (sick, (x, y)), (healthy, (x, y))
