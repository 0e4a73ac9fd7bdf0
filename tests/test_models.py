"""Tests of bnref_gallery.models: shapes, and where normalization stands."""

import keras
import numpy as np
import pytest

from bnref import BatchNorm
from bnref_gallery.models import perceptron, three_convolutions, two_convolutions


def kinds(model):
    return [type(each).__name__ for each in model.layers]


def counted():
    """A maker of layers that counts its calls."""
    made = []

    def norm():
        made.append(BatchNorm(momentum=0.7))
        return made[-1]

    return norm, made


@pytest.mark.parametrize("norm", [None, BatchNorm])
def test_two_convolutions_go_from_images_to_logits(norm):
    model = two_convolutions(norm, image_shape=(8, 12, 3), filters=(4, 6), units=5, classes=7)
    assert model.input_shape == (None, 8, 12, 3)
    assert model.output_shape == (None, 7)
    assert model(np.ones((2, 8, 12, 3), "float32")).shape == (2, 7)
    assert [each.output.shape[-1] for each in model.layers if hasattr(each, "kernel")] == [
        4,
        6,
        5,
        7,
    ]


@pytest.mark.parametrize(
    "on_logits, last",
    [(False, ["Dense"]), (True, ["Dense", "BatchNorm"])],
    ids=["not", "on logits"],
)
def test_two_convolutions_are_normalized_where_the_post_has_it(on_logits, last):
    norm, made = counted()
    model = two_convolutions(norm, image_shape=(8, 8, 1), units=8, norm_on_logits=on_logits)
    assert kinds(model) == [
        *("Conv2D", "ReLU", "MaxPooling2D"),
        *("Conv2D", "BatchNorm", "ReLU", "MaxPooling2D"),
        *("Flatten", "Dense", "BatchNorm", "ReLU", "Dropout"),
        *last,
    ]
    assert [each for each in model.layers if isinstance(each, BatchNorm)] == made
    assert all(each.momentum == 0.7 for each in made)


def test_two_convolutions_without_normalization_have_none():
    model = two_convolutions(None, image_shape=(8, 8, 1), units=8, norm_on_logits=True)
    assert kinds(model) == [
        *("Conv2D", "ReLU", "MaxPooling2D", "Conv2D", "ReLU", "MaxPooling2D"),
        *("Flatten", "Dense", "ReLU", "Dropout", "Dense"),
    ]


@pytest.mark.parametrize("norm", [None, BatchNorm])
def test_the_default_two_convolutions_have_the_posts_number_of_parameters(norm):
    model = two_convolutions(norm)
    # 5×5 filters over 28×28×1, twice halved to 7×7×64; a bias for each filter and unit.
    weights = 5 * 5 * 1 * 32 + 32 + 5 * 5 * 32 * 64 + 64 + 7 * 7 * 64 * 1024 + 1024 + 1024 * 10 + 10
    normalization = 2 * (64 + 1024) if norm else 0
    assert sum(each.size for each in map(np.array, model.trainable_variables)) == (
        weights + normalization
    )
    assert model.get_layer(index=-2).rate == 0.5


def test_a_perceptron_is_normalized_before_each_activation():
    norm, made = counted()
    model = perceptron(norm, inputs=(4, 3), units=(6, 5, 2), outputs=7, activation="tanh")
    assert kinds(model) == ["Flatten", *["Dense", "BatchNorm", "Activation"] * 3, "Dense"]
    assert [each for each in model.layers if isinstance(each, BatchNorm)] == made
    widths = [each.units for each in model.layers if isinstance(each, keras.layers.Dense)]
    assert widths == [6, 5, 2, 7]
    assert model.layers[-1].activation is keras.activations.linear
    assert {each.activation for each in model.layers if "activation" in each.name} == {
        keras.activations.tanh
    }


def test_a_perceptron_without_normalization_has_none():
    model = perceptron(None, inputs=(4, 3))
    assert kinds(model) == ["Flatten", "Dense", "Activation", "Dense", "Activation", "Dense"]
    assert model.output_shape == (None, 10)
    assert model(np.ones((2, 4, 3), "float32")).shape == (2, 10)


@pytest.mark.parametrize(
    "make", [two_convolutions, lambda norm: perceptron(norm, inputs=(3,))], ids=["conv", "dense"]
)
@pytest.mark.parametrize("norm", [True, False, "BatchNorm", 0, [], BatchNorm()])
def test_a_norm_that_makes_no_layer_is_refused_by_name(make, norm):
    with pytest.raises(ValueError, match="norm must be None or a callable .* received ") as error:
        make(norm)
    assert repr(norm) in str(error.value)


def test_three_convolutions_are_each_normalized_before_their_activation_and_have_no_bias():
    norm, made = counted()
    model = three_convolutions(norm, image_shape=(16, 8, 2), filters=(3, 4, 5), classes=6)
    block = ["Conv2D", "BatchNorm", "ReLU", "MaxPooling2D"]
    assert kinds(model) == [*3 * block, "GlobalAveragePooling2D", "Dense"]
    assert len(made) == 3 and all(each.momentum == 0.7 for each in made)
    assert [each.filters for each in model.layers[::4][:3]] == [3, 4, 5]
    assert not any(each.use_bias for each in model.layers[::4][:3])
    assert model(np.ones((2, 16, 8, 2), "float32")).shape == (2, 6)


@pytest.mark.parametrize("norm, bias", [(None, False), (BatchNorm, True)])
def test_three_convolutions_have_a_bias_without_a_norm_or_when_asked(norm, bias):
    model = three_convolutions(norm, image_shape=(8, 8, 1), bias=bias)
    convolutions = [each for each in model.layers if isinstance(each, keras.layers.Conv2D)]
    assert len(convolutions) == 3 and all(each.use_bias for each in convolutions)
    assert ("BatchNorm" in kinds(model)) == (norm is not None)


def test_the_perceptron_drops_units_after_each_activation_in_training_only():
    keras.utils.set_random_seed(0)
    model = perceptron(None, inputs=(5,), units=(400, 300), dropout=0.25)
    names = kinds(model)
    assert names == ["Flatten", *["Dense", "Activation", "Dropout"] * 2, "Dense"]
    x = np.abs(np.random.default_rng(0).normal(size=(50, 5))).astype("f4")
    drop = model.layers[3]
    assert drop.rate == 0.25
    dropped = np.mean(np.array(drop(np.ones((50, 400), "f4"), training=True)) == 0)
    assert abs(dropped - 0.25) < 0.02
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))
    assert not np.allclose(model(x, training=True), model(x, training=False))
    plain = perceptron(None, inputs=(5,), units=(4,))
    assert "Dropout" not in [type(layer).__name__ for layer in plain.layers]
