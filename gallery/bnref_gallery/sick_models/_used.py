"""Used when: faults of training and inference."""

import keras
import tensorflow as tf
from keras import layers

import bnref
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
    trained,
)


class Deaf(keras.Model):
    """Does not pass ``training`` on."""

    def __init__(self, told):
        super().__init__()
        self.dense, self.norm = layers.Dense(16), layers.BatchNormalization(momentum=0.9)
        self.head, self.told = layers.Dense(CLASSES), told

    def call(self, x, training=None):
        x = self.norm(self.dense(x), training=training if self.told else False)
        return self.head(tf.nn.relu(x))


def training_never_passed():
    x, y = classes()
    sick, healthy = (fitted(compiled(Deaf(told)), x, y) for told in (False, True))
    return (sick, (x, y)), (healthy, (x, y))


class Deafened(Deaf):
    """Says training=True to its norm, whatever it is told."""

    def call(self, x, training=None):
        x = self.norm(self.dense(x), training=self.told or training)
        return self.head(tf.nn.relu(x))


def training_at_inference():
    x, y = classes()
    sick, healthy = (fitted(compiled(Deafened(told)), x, y) for told in (True, False))
    return (sick, (x, y)), (healthy, (x, y))


def always_the_batchs():
    data = classes()
    return (fitted(dense(bnref.UntrackedBatchNorm), *data), data), (trained(), data)


def untold_is_training():
    data = images()
    sick, healthy = (
        fitted(convolutional(first), *data) for first in ([layers.Resizing(10, 8)], [])
    )
    return (sick, data), (healthy, data)


class Moving(keras.layers.Layer):
    """A norm that moves its population whenever it is called, as a careless one of one's own."""

    def __init__(self, careless):
        super().__init__()
        self.norm, self.careless = layers.BatchNormalization(momentum=0.9), careless

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, training=None):
        y = self.norm(x, training=training)
        if self.careless:
            self.norm.moving_mean.assign(0.9 * self.norm.moving_mean + 0.1 * tf.reduce_mean(x, 0))
        return y


def moves_at_inference():
    x, y = classes()
    models = []
    for careless in (True, False):
        inputs = keras.Input((FEATURES,))
        z = layers.ReLU()(Moving(careless)(layers.Dense(16)(inputs)))
        models.append(fitted(headed(inputs, z), x, y))
    return (models[0], (x, y)), (models[1], (x, y))


def fine_tuned(freeze):
    """A base that was trained on other data, called with training=False and then unfrozen."""
    x, y = classes()
    trained_before = base(x)
    inputs = keras.Input((FEATURES,))
    outputs = trained_before(inputs, training=False)
    for norm in bnref.norms.find(trained_before):
        norm.layer.trainable = not freeze
    return fitted(headed(inputs, outputs), x, y, epochs=1)


def training_false_overridden():
    return (fine_tuned(False), classes()), (fine_tuned(True), classes())


def frozen_after_compile():
    sick, healthy = trained(), trained()
    for model in (sick, healthy):
        for norm in bnref.norms.find(model):
            norm.layer.trainable = False
    compiled(healthy)
    return (sick, classes()), (healthy, classes())
