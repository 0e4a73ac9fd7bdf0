"""Remembered how: faults of the population."""

import keras
import numpy as np
from keras import layers

import bnref
from bnref_gallery.sick_models._networks import classes, compiled, copied, dense, fitted, trained


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


def epsilon_of_another_framework():
    x, y = classes(scale=3e-3)
    x = x - x.mean(0)
    healthy = fitted(dense(epsilon=1e-5), x, y)
    sick = copied(healthy)
    for norm in bnref.norms.find(sick):
        norm.layer.epsilon = 1e-3
    return (sick, (x, y)), (healthy, (x, y))
