"""Healthy models, in which nothing is to be found: of many makes, three of them published ones."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import bnref
from bnref_gallery import datasets
from bnref_gallery.sick_models._networks import (
    CLASSES,
    FEATURES,
    base,
    classes,
    compiled,
    convolutional,
    dense,
    fitted,
    headed,
    images,
)


def two_hidden_layers():
    """Keras's layers, functional."""
    data = classes()
    return fitted(dense(), *data), data


def with_dropout_behind():
    """Dropout behind the norm, where it belongs."""
    x, y = classes()
    model = keras.Sequential([keras.Input((FEATURES,))])
    for units in (32, 16):
        model.add(layers.Dense(units, use_bias=False))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(CLASSES))
    return fitted(compiled(model), x, y), (x, y)


def nested_and_frozen():
    """A base that was trained, frozen in the new model, its norms too."""
    x, y = classes()
    frozen = base(x, layers.ReLU())
    frozen.trainable = False
    inputs = keras.Input((FEATURES,))
    return fitted(headed(inputs, frozen(inputs, training=False), 1e-2), x, y), (x, y)


class Residual(keras.Model):
    """A subclass with a skip."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(16), layers.Dense(16)
        self.norms = [layers.BatchNormalization(momentum=0.9) for _ in range(2)]
        self.head = layers.Dense(CLASSES)

    def call(self, x, training=None):
        x = tf.nn.relu(self.norms[0](self.first(x), training=training))
        return self.head(x + tf.nn.relu(self.norms[1](self.second(x), training=training)))


def subclass_with_a_skip():
    """A subclassed model."""
    data = classes()
    return fitted(compiled(Residual()), *data), data


def convolutions():
    """Images, and a norm of bnref."""
    data = images()
    return fitted(convolutional(norm=bnref.BatchNorm), *data, epochs=4), data


def scaled_images():
    """Images that a layer of the model scales."""
    x, y = images()
    return fitted(convolutional([layers.Rescaling(1 / 50)]), 50 * x, y, epochs=4), (50 * x, y)


def sequences():
    """One-dimensional convolutions over time."""
    random = np.random.default_rng(0)
    y = random.integers(0, CLASSES, 512)
    x = (random.normal(size=(512, 16, 4)) + y[:, None, None]).astype("float32")
    inputs = keras.Input((16, 4))
    z = layers.Conv1D(8, 3, use_bias=False)(inputs)
    z = layers.GlobalMaxPooling1D()(layers.ReLU()(layers.BatchNormalization(momentum=0.9)(z)))
    return fitted(headed(inputs, z), x, y, epochs=4), (x, y)


def _published(name, size=32):
    """One of keras.applications, trained for some steps and then given its exact statistics."""
    data = datasets.load("cifar10").take(train=512, test=256)
    x = np.asarray(tf.image.resize(data.x_train, (size, size)))
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    model.compile(
        keras.optimizers.SGD(0.02, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    fitted(model, x, data.y_train, epochs=1)
    bnref.population.recompute(model, np.split(x, 16))
    return model, (x, data.y_train)


def resnet50():
    """``keras.applications.ResNet50``."""
    return _published("ResNet50")


def densenet121():
    """``keras.applications.DenseNet121``."""
    return _published("DenseNet121")


def mobilenet():
    """``keras.applications.MobileNet``."""
    return _published("MobileNet")
