"""Used when: values that cannot be normalized, and places where a norm should not be."""

import keras
import numpy as np
from keras import layers

import bnref
from bnref_gallery.sick_models._networks import (
    CLASSES,
    FEATURES,
    classes,
    compiled,
    copied,
    fitted,
    headed,
    trained,
)


def norm_on_logits():
    x, y = classes()
    inputs = keras.Input((FEATURES,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    sick = compiled(
        keras.Model(inputs, layers.BatchNormalization(momentum=0.9)(layers.Dense(CLASSES)(hidden)))
    )
    return (fitted(sick, x, y), (x, y)), (trained(), (x, y))


def bias_without_effect():
    models = []
    x, y = classes()
    for size in (300.0, 0.0):
        inputs = keras.Input((FEATURES,))
        layer = layers.Dense(16)
        z = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(inputs)))
        model = headed(inputs, z)
        layer.bias.assign(np.full(16, size))
        bnref.population.recompute(model, [x])
        models.append(fitted(model, x, y))
    return (models[0], (x, y)), (models[1], (x, y))


def large_mean():
    x, y = classes()
    far = (x + 3e4).astype("float32")
    inputs = keras.Input((FEATURES,))
    models = []
    for data in (far, x):
        z = layers.BatchNormalization(momentum=0.5)(inputs)
        models.append(fitted(headed(inputs, z), data, y))
    return (models[0], (far, y)), (models[1], (x, y))


def variance_overflows():
    x, y = classes()
    healthy = trained()
    sick = copied(healthy)
    sick.layers[1].kernel.assign(sick.layers[1].kernel * 1e30)
    return (sick, (x, y)), (healthy, (x, y))


def dead_channels():
    healthy = trained()
    sick = copied(healthy)
    kernel = sick.layers[1].kernel
    kernel.assign(np.where(np.arange(32) % 2, kernel, 0))
    bnref.population.recompute(sick, [classes()[0]])
    return (sick, classes()), (healthy, classes())


def gamma_vanishes():
    sick, healthy = trained(), trained()
    for model in (sick, healthy):
        model.optimizer.weight_decay = 0.1
    norm = bnref.norms.find(sick)[1]
    norm.gamma.assign(norm.gamma * 1e-3)
    return (sick, classes()), (healthy, classes())
