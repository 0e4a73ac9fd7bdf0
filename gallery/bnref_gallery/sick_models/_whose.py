"""Whose statistics: faults of the batch, of axes, and of what is shared."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import bnref
from bnref_gallery.sick_models._networks import (
    CLASSES,
    FEATURES,
    classes,
    compiled,
    convolutional,
    dense,
    fitted,
    images,
    over_time,
    trained,
)


def one_value_a_channel():
    x, y = classes(64)
    model = trained()
    return (model, (x, y), None, 1), (model, (x, y), None, 32)


def small_batches():
    x, y = classes()
    sick = fitted(dense(momentum=0.99), x, y, batch_size=4, epochs=2)
    return (sick, (x, y), None, 4), (trained(), (x, y), None, 32)


def accumulated_gradients():
    x, y = classes()
    models = []
    for steps in (8, None):
        models.append(compiled(dense(), gradient_accumulation_steps=steps))
    models = [fitted(model, x, y, batch_size=8, epochs=1) for model in models]
    return (models[0], (x, y), None, 8), (models[1], (x, y), None, 8)


def last_batch_of_one():
    x, y = classes(1025)
    model = trained()
    return (model, (x, y)), (model, (x[:1024], y[:1024]))


def one_kind_a_batch():
    x, y = classes()
    x[512:] = 4 - 3 * x[512:]
    turns = np.concatenate([np.r_[i : i + 32, 512 + i : 512 + i + 32] for i in range(0, 512, 32)])
    mixed = np.random.default_rng(1).permutation(1024)
    sick = fitted(dense(), x[turns], y[turns], shuffle=False, epochs=4)
    healthy = fitted(dense(), x[mixed], y[mixed], epochs=4)
    return (sick, (x[turns], y[turns])), (healthy, (x[mixed], y[mixed]))


def batches_not_shuffled():
    x, y = classes()
    order = np.argsort(y, kind="stable")
    data = x[order], y[order]
    sick = fitted(dense(), *data, shuffle=False)
    return (sick, data), (trained(), (x, y))


def one_example_rules():
    x, y = classes()
    wrong = x.copy()
    wrong[5::32] *= 200
    return (fitted(dense(), wrong, y), (wrong, y)), (trained(), (x, y))


def batch_gives_the_answer():
    """Large and small of each batch, whose scale is its own: only the batch's deviation tells."""
    random = np.random.default_rng(0)
    y = np.tile([0, 1], (64, 8))
    size = np.where(y == 1, 1.3, 0.7) * np.exp(random.normal(size=(64, 1)))
    x = (size * random.choice([-1, 1], size=size.shape)).reshape(-1, 1).astype("float32")
    x, y = np.repeat(x, FEATURES, axis=1), y.ravel()
    inputs = keras.Input((FEATURES,))
    z = layers.Dense(32, activation="relu")(layers.BatchNormalization(momentum=0.9)(inputs))
    model = compiled(keras.Model(inputs, layers.Dense(2)(z)), 1e-2)
    fitted(model, x, y, batch_size=16, epochs=15, shuffle=False)
    return (model, (x, y), None, 16), (trained(), classes())


def validation_of_another_kind():
    model, data = trained(), classes()
    x, y = classes(seed=5)
    return (model, data, (3 * x + 4, y)), (model, data, (x, y))


class Branches(keras.Model):
    """One network for two kinds of input; with a norm for each, or one for both."""

    def __init__(self, shared):
        super().__init__()
        self.dense = layers.Dense(16)
        self.norms = [layers.BatchNormalization(momentum=0.9) for _ in range(1 if shared else 2)]
        self.head = layers.Dense(CLASSES)

    def call(self, inputs, training=None):
        first, second = inputs
        a = self.norms[0](self.dense(first), training=training)
        b = self.norms[-1](self.dense(second), training=training)
        return self.head(tf.nn.relu(a) + tf.nn.relu(b))


def shared_by_branches():
    x, y = classes()
    data = [x, 6 - 3 * x], y
    sick, healthy = (fitted(compiled(Branches(shared)), *data) for shared in (True, False))
    batches = tf.data.Dataset.from_tensor_slices(((x, 6 - 3 * x), y)).batch(32)
    return (sick, batches), (healthy, batches)


def wrong_axis():
    data = images()
    sick, healthy = (fitted(convolutional(axis=axis), *data) for axis in (1, -1))
    return (sick, data), (healthy, data)


def padding_counted():
    random = np.random.default_rng(0)
    lengths = random.integers(3, 20, 512)
    y = random.integers(0, CLASSES, 512)
    x = random.normal(2, 1, size=(512, 20, 5)) + y[:, None, None]
    x = np.where(np.arange(20)[:, None] < lengths[:, None, None], x, 0).astype("float32")
    models = []
    for norm in (layers.BatchNormalization, bnref.MaskedBatchNorm):
        model = over_time(norm(momentum=0.9), (20, 5), masked=norm is bnref.MaskedBatchNorm)
        models.append(fitted(model, x, y))
    return (models[0], (x, y)), (models[1], (x, y))
