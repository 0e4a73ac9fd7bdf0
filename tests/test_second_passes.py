"""Tests of bnref_gallery.second_passes, against softmax regression written in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bnref_gallery.second_passes import pseudo_labels, sam

random = np.random.default_rng(0)
X, OTHERS = random.normal(size=(6, 4)), random.normal(2, 3, size=(5, 4))
Y = np.array([0, 1, 2, 2, 1, 1])
KERNEL, BIAS = random.normal(size=(4, 3)), np.array([0.5, -1, 2])


def slopes(x, y, kernel, bias):
    """Of the mean cross entropy, by the kernel and the bias."""
    z = x @ kernel + bias
    share = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    by_logits = (share - np.eye(3)[y]) / len(x)
    return x.T @ by_logits, by_logits.sum(0)


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.set_weights([KERNEL, BIAS])
    return model


def tensors(*arrays):
    return [tf.constant(each, tf.float32 if each.dtype.kind == "f" else None) for each in arrays]


def test_pseudo_labels_add_three_tenths_of_what_the_chosen_classes_give(model):
    chosen = np.argmax(OTHERS @ KERNEL + BIAS, 1)
    assert len(set(chosen)) > 1
    pairs = zip(slopes(X, Y, KERNEL, BIAS), slopes(OTHERS, chosen, KERNEL, BIAS), strict=True)
    wanted = [one + 0.3 * other for one, other in pairs]
    seen = []

    def second(model, x):
        seen.append(np.array(x))
        return model(x)

    found = pseudo_labels(second, model, *tensors(X, Y, OTHERS))
    for actual, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(seen, [np.float32(OTHERS)])


@pytest.mark.parametrize("radius", [0.05, 2.0])
def test_sam_takes_the_gradient_uphill_and_goes_back(model, radius):
    first = slopes(X, Y, KERNEL, BIAS)
    length = np.sqrt(sum(np.square(each).sum() for each in first))
    uphill = [w + radius * each / length for w, each in zip((KERNEL, BIAS), first, strict=True)]
    wanted, kernels = slopes(X, Y, *uphill), []

    def second(model, x):
        kernels.append(np.array(model.weights[0]))
        return model(x)

    found = sam(second, model, *tensors(X, Y), radius=radius)
    for actual, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(kernels, [uphill[0]], rtol=1e-5)
    for now, then in zip(model.get_weights(), (KERNEL, BIAS), strict=True):
        np.testing.assert_allclose(now, then, rtol=1e-5, atol=1e-6)
