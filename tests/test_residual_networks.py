"""Tests of bnref_gallery.residual_networks: size, where the norms stand, how the branches begin."""

import keras
import numpy as np
import pytest

from bnref import BatchNorm
from bnref_gallery.residual_networks import SkipInit, residual

SMALL = {"image_shape": (8, 8, 3), "filters": (4, 6), "blocks": 2, "classes": 5}


def zero_gamma():
    return keras.layers.BatchNormalization(gamma_initializer="zeros")


def test_as_it_stands_it_has_20_layers_and_270_000_weights():
    model = residual(keras.layers.BatchNormalization)
    shortcuts = [each for each in model.layers if getattr(each, "kernel_size", None) == (1, 1)]
    convolutions = [each for each in model.layers if isinstance(each, keras.layers.Conv2D)]
    assert len(convolutions) - len(shortcuts) + 1 == 20 and len(shortcuts) == 2
    kernels = [np.size(each) for each in model.trainable_variables if each.name == "kernel"]
    assert 265_000 < sum(kernels) < 275_000  # "0.27M" in table 6 of the paper
    assert model.output_shape == (None, 10)


def test_each_convolution_but_those_of_the_shortcuts_has_its_norm():
    model = residual(BatchNorm, **SMALL)
    convolutions = [each for each in model.layers if isinstance(each, keras.layers.Conv2D)]
    for each in convolutions:
        following = each.output._keras_history.operation._outbound_nodes[0].operation
        is_shortcut = each.kernel_size == (1, 1)
        assert isinstance(following, keras.layers.Add if is_shortcut else BatchNorm)
        assert not each.use_bias


@pytest.mark.parametrize("arm", [{"norm": BatchNorm, "last": zero_gamma},
                                 {"norm": None, "last": SkipInit}])  # fmt: skip
def test_branches_that_begin_at_zero_leave_the_blocks_to_their_shortcuts(arm, batch):
    model = residual(**arm, **{**SMALL, "filters": (4,)})
    *_, pooled, _ = model.layers
    first = next(each for each in model.layers if isinstance(each, keras.layers.ReLU))
    inner = keras.Model(model.input, [first.output, pooled.input])
    entered, left = inner(batch((6, 8, 8, 3)), training=True)
    np.testing.assert_array_equal(entered, left)
    assert np.ptp(entered) > 0.1


def test_without_any_beginning_at_zero_the_blocks_change_what_enters(batch):
    model = residual(BatchNorm, **{**SMALL, "filters": (4,)})
    *_, pooled, _ = model.layers
    first = next(each for each in model.layers if isinstance(each, keras.layers.ReLU))
    inner = keras.Model(model.input, [first.output, pooled.input])
    entered, left = inner(batch((6, 8, 8, 3)), training=True)
    assert np.abs(np.subtract(entered, left)).max() > 0.1


def test_without_norms_convolutions_have_biases_and_nothing_is_normalized():
    model = residual(None, **SMALL)
    layers = {type(each) for each in model.layers}
    assert keras.layers.BatchNormalization not in layers and BatchNorm not in layers
    assert all(each.use_bias for each in model.layers if isinstance(each, keras.layers.Conv2D))


def test_the_stride_of_the_first_convolution_halves_the_images():
    sizes = [residual(None, **SMALL, stride=each).layers[1].output.shape[1:3] for each in (1, 2)]
    assert sizes == [(8, 8), (4, 4)]


def test_skip_init_is_one_number_that_is_trained_and_saved(tmp_path, batch):
    x = batch((4, 5))
    model = keras.Sequential([keras.Input((5,)), SkipInit()])
    (alpha,) = model.trainable_variables
    assert alpha.shape == () and not np.any(model(x))
    alpha.assign(3.0)
    np.testing.assert_allclose(model(x), 3 * x, rtol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("name", ["norm", "last"])
def test_a_layer_in_place_of_its_maker_is_refused_by_name(name):
    arguments = {"norm": None, name: BatchNorm()}
    with pytest.raises(ValueError, match=f"{name} must be None or a callable"):
        residual(**arguments, **SMALL)
