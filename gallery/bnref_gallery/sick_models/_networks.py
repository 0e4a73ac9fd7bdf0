"""Small data and small networks, in which one thing can be wrong at a time."""

import keras
import numpy as np
from keras import layers

import bnref

FEATURES, CLASSES = 8, 4
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classes(number=1024, seed=0, scale=1.0):
    """Four overlapping classes of vectors whose features differ in scale and offset."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, number)
    centres = np.random.default_rng(9).normal(size=(CLASSES, FEATURES)) * 1.5
    x = (centres[y] + random.normal(size=(number, FEATURES))) * np.linspace(0.5, 3, FEATURES) + 1
    return (x * scale).astype("float32"), y


def images(number=512, seed=0):
    """Ten by eight images, of four classes that differ in where they are bright."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, number)
    x = random.normal(size=(number, 10, 8, 3)) * [1, 2, 0.5] + [0, 1, -1]
    for row in range(CLASSES):
        x[y == row, 2 * row : 2 * row + 3] += 1
    return x.astype("float32"), y


def compiled(model, rate=3e-3, **options):
    model.compile(keras.optimizers.Adam(rate, **options), LOSS)
    return model


def headed(inputs, x, rate=3e-3):
    """A classifier with one layer of logits on ``x``."""
    return compiled(keras.Model(inputs, layers.Dense(CLASSES)(x)), rate)


def dense(norm=layers.BatchNormalization, before=(), classes=CLASSES, **options):
    """Two hidden layers with norms, functional."""
    options = {"momentum": 0.9, **options}
    x = inputs = keras.Input((FEATURES,))
    for units in (32, 16):
        x = layers.Dense(units, use_bias=False)(x)
        for each in before:
            x = each()(x)
        x = layers.ReLU()(norm(**options)(x))
    return compiled(keras.Model(inputs, layers.Dense(classes)(x)))


def base(x, *behind):
    """The first layers of a model that was trained on ``x``: its population is theirs."""
    model = keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(16), layers.BatchNormalization(), *behind]
    )
    bnref.population.recompute(model, [x])
    return model


def fitted(model, x, y, epochs=3, batch_size=32, **options):
    model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0, **options)
    return model


def trained(**options):
    keras.utils.set_random_seed(0)
    return fitted(dense(**options), *classes())


def convolutional(
    first=(), axis=-1, kernel_options=None, norm=layers.BatchNormalization, shape=(10, 8, 3)
):
    inputs = x = keras.Input(shape)
    for layer in first:
        x = layer(x)
    x = layers.Conv2D(8, 3, use_bias=False, **(kernel_options or {}))(x)
    x = layers.ReLU()(norm(axis=axis, momentum=0.9)(x))
    return headed(inputs, layers.GlobalAveragePooling2D(**(kernel_options or {}))(x), 1e-2)


def over_time(norm, shape, masked):
    """A norm on sequences, behind a mask or not, averaged over time."""
    inputs = x = keras.Input(shape)
    if masked:
        x = layers.Masking()(x)
    return headed(inputs, layers.GlobalAveragePooling1D()(norm(x)))


def copied(model):
    """An equal model with variables of its own."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
