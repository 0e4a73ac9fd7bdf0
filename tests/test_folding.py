"""Tests of bnref.folding: one layer that does what a layer and its norm do at inference."""

import keras
import numpy as np
import pytest
import reference
from helpers import BETA, GAMMA, MEAN, VARIANCE, with_state
from layers_under_test import CASES

from bnref import BatchNorm, UntrackedBatchNorm, norms
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


# Layers whose kernels have the output's channels elsewhere; their number is the third entry.
OTHER_LAYOUTS = {
    "Conv1DTranspose": (lambda **o: keras.layers.Conv1DTranspose(5, 3, strides=2, **o), (6, 2), 5),
    "Conv2DTranspose": (lambda **o: keras.layers.Conv2DTranspose(5, 3, **o), (4, 5, 2), 5),
    "Conv3DTranspose": (lambda **o: keras.layers.Conv3DTranspose(5, 2, **o), (3, 4, 3, 2), 5),
    "DepthwiseConv1D": (lambda **o: keras.layers.DepthwiseConv1D(2, **o), (6, 3), 3),
    "DepthwiseConv2D": (
        lambda **o: keras.layers.DepthwiseConv2D(2, depth_multiplier=2, **o), (5, 6, 3), 6,
    ),
    "SeparableConv1D": (lambda **o: keras.layers.SeparableConv1D(5, 2, **o), (6, 3), 5),
    "SeparableConv2D": (
        lambda **o: keras.layers.SeparableConv2D(5, 3, depth_multiplier=2, **o), (5, 6, 3), 5,
    ),
}  # fmt: skip


def norm(kind=BatchNorm, channels=3, **options):
    return with_state(kind(epsilon=0.02, **options), channels)


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


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_a_kernel_of_another_layout_is_folded_where_its_outputs_channels_are(batch, name, use_bias):
    make, shape, channels = OTHER_LAYOUTS[name]
    layer, after, x = make(use_bias=use_bias), norm(channels=channels), batch((4, *shape))
    layer.build(x.shape)
    before = random_weights(layer).get_weights()
    folded, wanted = fold(layer, after), np.array(after(layer(x)))
    assert type(folded) is type(layer) and folded.name == layer.name and folded.use_bias
    np.testing.assert_allclose(folded(x), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    for each, value in zip(layer.get_weights(), before, strict=True):
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


def test_products_are_rounded_once():
    """Bit for bit the float64 formula in float32: a slope that is rounded first differs."""
    (layer, _), after = built("Dense"), norm()
    kernel, bias = map(np.float64, layer.get_weights())
    gamma, beta, mean, variance = (np.float64(each) for each in after.variables[:4])
    slope = gamma / np.sqrt(variance + 0.02)
    wanted = np.float32(kernel * slope), np.float32(beta + (bias - mean) * slope)
    rounded = np.float32(kernel) * np.float32(slope)
    assert not np.array_equal(rounded, wanted[0]), "these weights tell the two apart"
    for actual, expected in zip(fold(layer, after).get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
def test_a_variance_that_cannot_be_is_refused_though_the_line_would_be_a_number(value):
    """−0.5 is more than −ε = −1 here, so that the square root would be taken."""
    after = with_state(BatchNorm(epsilon=1.0, name="spoilt"), 3)
    after.moving_variance.assign([1, value, 2])
    with pytest.raises(ValueError, match="spoilt"):
        fold(built("Dense")[0], after)


@pytest.mark.parametrize("path", ["folds", "stays"])
def test_a_model_with_a_variance_that_cannot_be_is_refused_by_the_norms_name(path):
    model = functional(lambda x: norm(name="stays")(pair(x, "folds")))
    model.get_layer(path).moving_variance.assign([1, -0.01, 2])
    with pytest.raises(ValueError, match=path):
        fold_model(model)


def with_lora(layer):
    layer.enable_lora(1)
    return layer


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
        (lambda: keras.layers.UnitNormalization(), norm, "layer must be one of Dense, Conv1D"),
        (lambda: built("Dense", activation="relu")[0], norm, "layer must have no activation"),
        (lambda: built("Dense")[0], keras.layers.LayerNormalization, "norm must be a batch-norm"),
        (lambda: keras.layers.Dense(3), norm, "layer and norm must be built"),
        (lambda: built("Dense")[0], BatchNorm, "layer and norm must be built"),
        (
            lambda: built("Dense")[0],
            lambda: with_state(BatchNorm(), 4),
            "norm must have the layer's 3 channels; received 4",
        ),
        (
            lambda: built("Dense", dtype="mixed_bfloat16")[0],
            norm,
            "layer and norm must compute in the same type; received bfloat16 and float32",
        ),
        (lambda: with_lora(built("Dense")[0]), norm, "layer must have its kernel and its bias"),
    ],
    ids=["ReLU", "another norm", "activation", "no norm", "layer unbuilt", "norm unbuilt",
         "channels", "types", "LoRA"],
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
        (lambda: keras.layers.Dense(3), "model must be a functional or Sequential keras.Mo"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "model must be .* and built"),
        (lambda: Subclass(), "a subclass with its own call shows no graph"),
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]),
            "model must have a norm right after a layer it can be folded into$",
        ),
        (
            lambda: keras.Sequential([keras.Input((3,)), norm(name="first")]),
            r"it can be folded into\nfirst: \w+ is no layer that .* \(InputLayer\)",
        ),
    ],
    ids=["a layer", "not built", "a subclass", "no norm", "no pair"],
)
def test_a_model_that_cannot_be_folded_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        fold_model(make())


class Subclass(keras.Model):
    """A dense layer and a norm, called by code."""

    def __init__(self):
        super().__init__()
        self.dense, self.norm = dense(), norm(name="held")

    def call(self, x):
        return self.norm(self.dense(x))


def dense(name=None, **options):
    layer = keras.layers.Dense(3, name=name, **options)
    layer.build((None, 3))
    return random_weights(layer)


def pair(x, name, **options):
    return norm(name=name)(dense(**options)(x))


def two_branches(x):
    shared = dense("shared")(x)
    return keras.layers.Add()([norm(name="stays")(shared), shared])


def also_an_output(x):
    inner = dense("shown")(x)
    return [norm(name="stays")(inner), inner]


def norm_called_twice(x):
    twice = norm(name="stays")
    return twice(dense()(twice(dense()(x))))


def layer_called_twice(x):
    twice = dense("twice")
    return twice(norm(name="stays")(twice(x)))


def masked(x):
    return norm(name="stays")(dense()(keras.layers.Masking()(x)))


# What is kept, and why; every model begins with a pair that is folded.
KEPT = {
    "two branches": (two_branches, "the output of shared before it is used elsewhere too"),
    "also an output": (also_an_output, "the output of shown before it is used elsewhere too"),
    "norm called twice": (norm_called_twice, "it is called 2 times"),
    "layer called twice": (layer_called_twice, "twice before it is called 2 times"),
    "a mask": (masked, "it is called with a mask"),
    "activation": (
        lambda x: pair(x, "stays", activation="relu"),
        "layer must have no activation before the norm; received 'relu'",
    ),
    "padding": (
        lambda x: norm(name="stays")(keras.layers.ZeroPadding1D(name="pad")(dense()(x))),
        "pad is no layer that a norm is folded into (ZeroPadding1D)",
    ),
    "by the batch": (
        lambda x: norm(name="stays")(dense()(x), training=True),
        "it is called with training=True, and may normalize by the batch at inference",
    ),
    "no line": (
        lambda x: norm(UntrackedBatchNorm, name="stays")(dense()(x)),
        "norm must be a fixed line at inference; UntrackedBatchNorm is none",
    ),
    "wrapped": (
        lambda x: keras.layers.TimeDistributed(norm(name="stays"), name="each")(dense()(x)),
        "no graph shows its call: it is in a layer, or in a subclassed model",
    ),
    "subclass": (
        lambda x: Subclass()(x),
        "no graph shows its call: it is in a layer, or in a subclassed model",
    ),
}  # fmt: skip


def functional(body, shape=(5, 3)):
    x = keras.Input(shape)
    return keras.Model(x, body(x))


@pytest.mark.parametrize("name", KEPT)
def test_a_norm_that_cannot_be_folded_is_kept_and_the_reason_given(batch, name):
    body, reason = KEPT[name]

    model = functional(lambda x: keras.tree.flatten(body(pair(x, "folds"))))
    x = batch((4, 5, 3))
    before = [np.array(each) for each in keras.tree.flatten(model(x))]
    result = fold_model(model)
    assert result.folded == ["folds"]
    assert list(result.kept.values()) == [reason]
    assert [path.rpartition("/")[2] for path in result.kept] in (["stays"], ["held"])
    for outputs in (model(x), result.model(x)):
        for actual, wanted in zip(keras.tree.flatten(outputs), before, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)
    assert fold_model(model)[1:] == result[1:], "the model is as it was"


def test_each_norm_that_is_kept_has_its_own_reason():
    def body(x):
        x = norm(name="first")(keras.layers.ReLU(name="relu")(pair(x, "folds")))
        return norm(name="second")(dense("tanh", activation="tanh")(x))

    result = fold_model(functional(body))
    assert result.folded == ["folds"]
    assert result.kept == {
        "first": "relu is no layer that a norm is folded into (ReLU)",
        "second": "layer must have no activation before the norm; received 'tanh'",
    }


def test_what_a_norm_comes_from_stays_where_the_folded_model_shares_it(batch):
    model, x = functional(lambda x: norm(name="stays")(pair(x, "folds"))), batch((4, 5, 3))
    before = [found.sources for found in norms.find(model)]
    result = fold_model(model)
    assert result.folded == ["folds"] and list(result.kept) == ["stays"]
    assert norms.find(result.model)[0].layer is norms.find(model)[1].layer
    assert [found.sources for found in norms.find(model)] == before
    assert [each.name for each in norms.find(result.model)[0].sources] == [before[0][0].name]
    np.testing.assert_allclose(result.model(x), model(x), rtol=1e-4, atol=1e-4)


def nested_in_functional(x):
    inner = keras.Sequential([keras.Input((5, 3)), dense(), norm(name="a")], name="inner")
    return pair(functional(lambda y: inner(pair(y, "b")))(x), "c")


def called_twice(x):
    """Each call within it happens once, however often it is called."""
    inner = keras.Sequential([keras.Input((5, 3)), dense(), norm(name="a")], name="inner")
    return keras.layers.Add()([inner(x), inner(pair(x, "b"))])


@pytest.mark.parametrize(
    "make, paths",
    [
        (lambda: functional(nested_in_functional), {"a", "b", "c"}),
        (lambda: functional(called_twice), {"a", "b"}),
        (
            lambda: keras.Sequential(
                [keras.Input((5, 3)), functional(nested_in_functional), dense(), norm(name="d")]
            ),
            {"a", "b", "c", "d"},
        ),
    ],
    ids=["functional", "called twice", "Sequential"],
)
def test_norms_of_nested_models_are_folded(batch, make, paths):
    model, x = make(), batch((4, 5, 3))
    wanted, result = np.array(model(x)), fold_model(model)
    assert {path.rpartition("/")[2] for path in result.folded} == paths
    assert len(result.folded) == len(paths) and not result.kept
    assert norms.find(result.model) == [] and len(norms.find(model)) == len(paths)
    np.testing.assert_allclose(result.model(x), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_array_equal(model(x), wanted)


def test_names_of_inputs_and_the_form_of_outputs_stay(batch):
    x, other = keras.Input((3,), name="x"), keras.Input((3,), name="other")
    outputs = {"y": pair(x, "a"), "sum": keras.layers.Add()([pair(other, "b"), x])}
    model = keras.Model({"x": x, "other": other}, outputs, name="net")
    folded = fold_model(model).model
    given = {"x": batch((4, 3)), "other": batch((4, 3), 1)}
    assert folded.name == "net"
    for name, wanted in model(given).items():
        np.testing.assert_allclose(folded(given)[name], wanted, rtol=1e-4, atol=1e-4)
