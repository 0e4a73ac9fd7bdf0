"""Tests of bnref.folding: one layer that does what a layer and its norm do at inference."""

import keras
import numpy as np
import pytest
import reference
from helpers import BETA, GAMMA, MEAN, VARIANCE, with_state
from layers_under_test import CASES

from bnref import BatchNorm
from bnref.folding import fold, fold_model

# What does not normalize by the population alone, the same for every example.
NOT_A_LINE = ["DomainBatchNorm", "ExampleWeighingBatchNorm", "UntrackedBatchNorm"]
LAYERS = {
    "Dense": (lambda **o: keras.layers.Dense(3, **o), (4,)),
    "Dense on sequences": (lambda **o: keras.layers.Dense(3, **o), (5, 4)),
    "Conv1D": (lambda **o: keras.layers.Conv1D(3, 2, strides=2, **o), (6, 4)),
    "Conv2D": (lambda **o: keras.layers.Conv2D(3, 3, padding="same", **o), (5, 6, 2)),
    "Conv2D in groups": (lambda **o: keras.layers.Conv2D(3, 2, groups=3, **o), (5, 6, 6)),
    "Conv3D": (lambda **o: keras.layers.Conv3D(3, 2, **o), (3, 4, 3, 2)),
}


def norm(kind=BatchNorm, **options):
    return with_state(kind(epsilon=0.02, **options))


def keras_norm(rank, **options):
    layer = keras.layers.BatchNormalization(epsilon=0.02, **options)
    layer.build((None, *[None] * (rank - 2), 3))
    values = [GAMMA] * layer.scale + [BETA] * layer.center + [MEAN, VARIANCE]
    layer.set_weights([np.array(each) for each in values])
    return layer


def random_weights(layer, seed=0):
    random = np.random.default_rng(seed)
    layer.set_weights([random.normal(size=each.shape) for each in layer.get_weights()])
    return layer


def built(name, **options):
    make, shape = LAYERS[name]
    layer = make(**options)
    layer.build((None, *shape))
    return random_weights(layer), (4, *shape)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_the_folded_layer_does_what_the_two_did_and_leaves_them_as_they_were(batch, name, use_bias):
    (layer, shape), after = built(name, use_bias=use_bias), norm()
    before = layer.get_weights(), after.get_weights()
    folded = fold(layer, after)
    assert type(folded) is type(layer) and folded.use_bias
    np.testing.assert_allclose(folded(batch(shape)), after(layer(batch(shape))), 1e-4, 1e-4)
    kernel, *bias = map(np.float64, layer.get_weights())
    wanted = reference.folded(kernel, sum(bias), GAMMA, BETA, MEAN, VARIANCE, epsilon=0.02)
    for actual, expected in zip(folded.get_weights(), wanted, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    for kept, now in zip(before, (layer.get_weights(), after.get_weights()), strict=True):
        for each, value in zip(kept, now, strict=True):
            np.testing.assert_array_equal(each, value)


@pytest.mark.parametrize("name", sorted(set(CASES) - set(NOT_A_LINE)))
def test_every_layer_that_is_a_line_at_inference_is_folded(batch, name):
    case = CASES[name]
    (layer, shape), after = built("Dense"), case.make()
    x = batch(shape)
    np.testing.assert_allclose(fold(layer, after)(x), after(layer(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_the_layer_of_keras_is_folded_with_and_without_gamma_and_beta(batch, scale, center):
    (layer, shape), after = built("Conv1D"), keras_norm(3, scale=scale, center=center)
    x = batch(shape)
    np.testing.assert_allclose(fold(layer, after)(x), after(layer(x)), rtol=1e-4, atol=1e-4)


def network(between=()):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, use_bias=False),
            norm(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
            *between,
            norm(momentum=0.5),
            keras.layers.Dense(2, activation="tanh"),
        ]
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D):
            random_weights(layer)
    return model


def test_a_folded_model_has_no_norm_left_and_the_same_outputs(batch):
    model, x = network(), batch((4, 6, 6, 2))
    folded = fold_model(model).model
    assert len(folded.layers) == len(model.layers) - 2
    assert not any(isinstance(layer, BatchNorm) for layer in folded.layers)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert len(model.layers) == 7


def test_a_norm_after_something_else_is_kept_as_it_is(batch):
    model, x = network([keras.layers.ReLU()]), batch((4, 6, 6, 2))
    folded = fold_model(model).model
    assert [type(each) for each in folded.layers].count(BatchNorm) == 1
    assert folded.layers[-2] is model.layers[-2] and folded.layers[-1] is model.layers[-1]
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer, after, message",
    [
        (lambda: keras.layers.ReLU(), norm, "layer must be one of Dense, Conv1D, Conv2D, Conv3D"),
        (lambda: keras.layers.DepthwiseConv2D(2), norm, "layer must be one of Dense, Conv1D"),
        (lambda: built("Dense", activation="relu")[0], norm, "layer must have no activation"),
        (lambda: built("Dense")[0], keras.layers.LayerNormalization, "norm must be a batch-norm"),
        (lambda: keras.layers.Dense(3), norm, "layer and norm must be built"),
        (lambda: built("Dense")[0], BatchNorm, "layer and norm must be built"),
        (
            lambda: built("Dense")[0],
            lambda: with_state(BatchNorm(), 4),
            "norm must have the layer's 3 channels; received 4",
        ),
    ],
    ids=["ReLU", "depthwise", "activation", "no norm", "layer unbuilt", "norm unbuilt", "channels"],
)  # fmt: skip
def test_what_cannot_be_folded_is_refused_by_name(layer, after, message):
    with pytest.raises(ValueError, match=message):
        fold(layer(), after())


def test_a_norm_of_another_axis_than_the_last_is_refused_by_name():
    layer, norm = keras.layers.Conv2D(3, 1), keras.layers.BatchNormalization(axis=1)
    layer.build((None, 3, 5, 2))
    norm.build((None, 3, 5, 3))
    with pytest.raises(ValueError, match="norm must normalize the last axis; received axis=1"):
        fold(layer, norm)


def test_a_layer_with_channels_first_is_refused_by_name():
    layer, norm = keras.layers.Conv2D(3, 1, data_format="channels_first"), BatchNorm()
    layer.build((None, 2, 5, 5))
    norm.build((None, 3))
    with pytest.raises(ValueError, match="layer must have channels last; received 'channels_first"):
        fold(layer, norm)


@pytest.mark.parametrize("name", NOT_A_LINE)
def test_a_norm_that_is_no_fixed_line_is_refused_by_its_type(name):
    with pytest.raises(ValueError, match=f"norm must be a fixed line at inference; {name} is none"):
        fold(built("Dense")[0], CASES[name].make())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: keras.layers.Dense(3), "model must be a built keras.Sequential; received"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "model must be a built keras.Sequen"),
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]),
            "model must have a norm right after a layer it can be folded into",
        ),
    ],
    ids=["a layer", "not built", "no norm"],
)
def test_a_model_that_cannot_be_folded_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        fold_model(make())
