"""Whose statistics, on two replicas."""

import functools

import numpy as np
from keras import layers

import bnref
from bnref import training
from bnref_gallery.sick_models._networks import CLASSES, FEATURES, classes, dense, fitted, over_time


@functools.cache
def strategy():
    """Two logical devices of the processor, one strategy a process."""
    return training.strategy(2)


def replicas_differ():
    """The second replica's data are of another kind, and each remembers its own."""
    x, y = classes()
    x = x.reshape(-1, 16, FEATURES)
    x[1::2] = 3 - 2 * x[1::2]
    x = x.reshape(-1, FEATURES)
    models = []
    for norm in (layers.BatchNormalization, bnref.SyncBatchNorm):
        with strategy().scope():
            models.append(dense(norm))
        fitted(models[-1], x, y, shuffle=False, epochs=1)
    shuffled = np.random.default_rng(0).permutation(len(x))
    data = x[shuffled], y[shuffled]
    return (models[0], data), (models[1], data)


def empty_replica():
    x, y = classes(1025)
    with strategy().scope():
        model = dense()
    fitted(model, x[:1024], y[:1024])
    bnref.population.recompute(model, np.split(x[:1024], 16))  # the same on both
    return (model, (x, y)), (model, (x[:1024], y[:1024]))


def mask_unsynchronizes():
    random = np.random.default_rng(0)
    y = random.integers(0, CLASSES, 512)
    x = (random.normal(size=(512, 6, 5)) + y[:, None, None]).astype("float32")
    x[:, 4:] = 0
    models = []
    for norm in (layers.BatchNormalization(momentum=0.9, synchronized=True), bnref.SyncBatchNorm()):
        with strategy().scope():
            models.append(over_time(norm, (6, 5), masked=True))
        bnref.population.recompute(models[-1], np.split(x, 16))
    return (models[0], (x, y)), (models[1], (x, y))
