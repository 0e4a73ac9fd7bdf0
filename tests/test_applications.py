"""Models of keras.applications: every norm folded that can be, converted, and converted back."""

import collections

import keras
import numpy as np
import pytest

import bnref
from bnref import norms
from bnref.folding import fold_model

pytestmark = pytest.mark.slow
# The least width that each takes, how many norms are folded, and what comes before the others.
MODELS = {
    "DenseNet121": (32, 59, {"MaxPooling2D": 1, "Concatenate": 58, "AveragePooling2D": 3}),
    "EfficientNetB0": (32, 49, {}),
    "EfficientNetV2B0": (32, 59, {}),
    "InceptionV3": (75, 94, {}),  # without gamma
    "MobileNet": (32, 27, {}),
    "MobileNetV2": (32, 52, {}),
    "MobileNetV3Small": (32, 34, {}),
    "ResNet50": (32, 53, {}),
    "ResNet50V2": (32, 32, {"MaxPooling2D": 1, "Add": 16}),
    "Xception": (71, 40, {}),  # separable convolutions
}


def network(name, width, random):
    """The layers before the classifier, with weights that let the input's differences through."""
    make = getattr(keras.applications, name)
    model = make(weights=None, include_top=False, input_shape=(width, width, 3))
    for layer in model.layers:
        for kernel in [each for each in layer.weights if "kernel" in each.name]:
            each_input = "depthwise" in type(layer).__name__.lower() or "depthwise" in kernel.name
            fan_in = np.prod(kernel.shape[:-2] if each_input else kernel.shape[:-1])
            values = random.standard_normal(kernel.shape, "float32")
            kernel.assign(values * np.float32(np.sqrt(2 / fan_in)))
    for norm in norms.find(model):
        mean, variance = random.uniform([[-0.5], [0.5]], [[0.5], [2.0]], (2, norm.channels))
        norm.assign(mean, variance)
        for variable, low, high in ((norm.gamma, 0.5, 1.5), (norm.beta, -0.5, 0.5)):
            if variable is not None:
                variable.assign(random.uniform(low, high, norm.channels))
    return model


def images(name, width, random):
    """Two images of different contrast; some models divide them by the range of their pixels."""
    pixels = {"EfficientNetB0": 1000, "MobileNetV3Small": 128}.get(name, 1)
    contrast = np.reshape([1, 3], (2, 1, 1, 1))
    return np.float32(random.normal(size=(2, width, width, 3)) * contrast * pixels)


def names(model):
    return [variable.path.rpartition("/")[2] for variable in model.weights]


@pytest.mark.parametrize("name", MODELS)
def test_norms_of_a_published_model_are_folded_and_converted_there_and_back(name, tmp_path):
    width, number, others = MODELS[name]
    random = np.random.default_rng(0)
    model = network(name, width, random)
    x = images(name, width, random)
    y = model(x).numpy()
    assert np.abs(y[0] - y[1]).max() > 0.01 * np.abs(y).max(), "the inputs must make a difference"
    close = {"rtol": 0, "atol": 1e-5 * np.abs(y).max()}

    folded = fold_model(model)
    np.testing.assert_allclose(folded.model(x), y, **close)
    assert len(folded.folded) == number
    before = (reason.rpartition("(")[2][:-1] for reason in folded.kept.values())
    assert collections.Counter(before) == others
    assert len(norms.find(folded.model)) == len(folded.kept)

    model.save_weights(tmp_path / "before.weights.h5")
    there = norms.convert(model, bnref.BatchNorm)
    assert {norm.library for norm in norms.find(there)} == {"bnref"}
    np.testing.assert_allclose(there(x), y, **close)
    for each, value in zip(there.weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(each, value)
        each.assign(each + 1)
    there.load_weights(tmp_path / "before.weights.h5")
    back = norms.convert(there, keras.layers.BatchNormalization)
    np.testing.assert_array_equal(back(x), y)
    assert [layer.name for layer in back.layers] == [layer.name for layer in model.layers]
    assert names(back) == names(there) == names(model)
