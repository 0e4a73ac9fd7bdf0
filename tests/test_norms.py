"""Tests of bnref.norms: the batch norms of any Keras model, seen alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import RENORM, batch_of, values
from layers_under_test import CASES

import bnref
from bnref import norms
from bnref.layers import FrozenBatchNorm, UntrackedBatchNorm
from bnref.norms import Norm, find

LIBRARIES = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])


def paths(model):
    return [norm.path for norm in find(model)]


def names(layers):
    return [each.name for each in layers]


def only(model):
    """The view of the one norm of a model or of a layer alone."""
    (found,) = find(model)
    return found


def keras_norm(shape=(4, 3), **options):
    layer = keras.layers.BatchNormalization(name="bn", **options)
    layer.build((None, *shape[1:]))
    return layer


# Where norms stand.


@LIBRARIES
def test_norms_of_a_functional_model_are_found_in_order_with_what_they_come_from(library):
    layers = library.layers
    x = inputs = library.Input((4,), name="x")
    x = layers.BatchNormalization(name="first")(x)
    x = layers.Dense(3, name="dense")(x)
    x = layers.BatchNormalization(name="second")(x)
    found = find(library.Model(inputs, x))
    assert [(each.path, names(each.sources)) for each in found] == [
        ("first", ["x"]),
        ("second", ["dense"]),
    ]
    assert all(isinstance(each, Norm) and each.library == library.__name__ for each in found)


@LIBRARIES
def test_norms_of_a_sequential_model_are_found_and_so_is_what_they_come_from(library):
    layers = library.layers
    model = library.Sequential(
        [
            library.Input((4,)),
            layers.Dense(3, name="dense"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
        ]
    )
    assert paths(model) == ["bn"]
    assert names(only(model).sources) == ["dense"]


@LIBRARIES
def test_norms_of_nested_models_have_the_names_on_the_way(library):
    layers = library.layers
    inner = library.Sequential(
        [
            library.Input((4,)),
            layers.Dense(3, name="dense"),
            layers.BatchNormalization(name="bn"),
        ],
        name="inner",
    )
    middle_input = library.Input((4,))
    middle = library.Model(middle_input, inner(middle_input), name="middle")
    inputs = library.Input((4,))
    outer = library.Model(inputs, layers.BatchNormalization(name="last")(middle(inputs)))
    assert paths(outer) == ["middle/inner/bn", "last"]
    assert [names(each.sources) for each in find(outer)] == [["dense"], ["middle"]]


@LIBRARIES
def test_norms_of_subclassed_models_and_in_lists_are_found_and_come_from_nowhere(library):
    class Net(library.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [library.layers.Dense(3), library.layers.BatchNormalization(name="one")]
            self.parts = {"norm": library.layers.BatchNormalization(name="two")}

        def call(self, x, training=False):
            for each in (*self.blocks, self.parts["norm"]):
                x = each(x)
            return x

    model = Net()
    assert paths(model) == ["one", "two"]
    assert [each.built for each in find(model)] == [False, False]
    model(batch_of((5, 4)))
    assert [(each.built, each.channels, each.sources) for each in find(model)] == [
        (True, 3, ())
    ] * 2


@LIBRARIES
def test_norms_inside_of_layers_are_found(library):
    class Block(library.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.norm = library.layers.BatchNormalization(name="norm")

        def call(self, x):
            return self.norm(x)

    inner = library.layers.BatchNormalization(name="each_step")
    steps = library.layers.TimeDistributed(inner, name="steps")
    model = library.Sequential([library.Input((5, 4)), steps, Block(name="block")])
    assert paths(model) == ["steps/each_step", "block/norm"]


@LIBRARIES
def test_a_shared_norm_stands_there_once_and_comes_from_all_of_its_calls(library):
    layers = library.layers
    shared, x = layers.BatchNormalization(name="shared"), library.Input((4,), name="x")
    left, right = layers.Dense(3, name="left")(x), layers.Dense(3, name="right")(x)
    model = library.Model(x, [shared(left), shared(right), shared(left)])
    assert paths(model) == ["shared"]
    assert names(only(model).sources) == ["left", "right"]


def test_a_norm_that_two_models_share_has_the_path_of_the_first():
    shared = keras.layers.BatchNormalization(name="bn")
    parts = [keras.Sequential([keras.Input((4,)), shared], name=name) for name in "ab"]
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [part(inputs) for part in parts])
    assert paths(model) == ["a/bn"]


def test_a_layer_alone_is_its_own_model():
    layer = keras_norm()
    assert only(layer).path == "bn"
    assert only(layer).layer is layer


def test_a_model_without_norms_has_none():
    model = keras.Sequential([keras.Input((4,)), keras.layers.LayerNormalization()])
    assert find(model) == []


@pytest.mark.parametrize("value", [None, 3, "model", [keras.layers.Dense(2)]], ids=repr)
def test_what_is_no_model_is_refused_by_name(value):
    message = f"model must be a Keras model or layer; received {type(value).__name__}"
    with pytest.raises(ValueError, match=message):
        find(value)


def test_the_views_name_is_in_the_package():
    assert bnref.norms is norms


# What a norm says of itself.


@pytest.mark.parametrize("name", CASES)
def test_every_layer_of_the_package_answers_in_the_words_of_its_hooks(name):
    layer = CASES[name].make()
    found = only(layer)
    assert (found.library, found.built, found.channels, found.axis) == ("bnref", True, 3, -1)
    assert (found.epsilon, found.momentum) == (0.02, 0.6)
    assert found.gamma is layer.gamma
    assert found.beta is layer.beta
    assert found.mean is layer.moving_mean
    assert found.variance is layer.moving_variance
    kept = name in ("FrozenBatchNorm", "UntrackedBatchNorm")
    assert found.updates is not kept
    assert (found.remembered == "never") == kept
    fickle = ("DomainBatchNorm", "ExampleWeighingBatchNorm", "UntrackedBatchNorm")
    assert found.fixed is (name not in fickle)
    assert found.synchronized is (name == "SyncBatchNorm")
    assert found.masks is (name == "MaskedBatchNorm")
    for answer in (found.whose, found.remembered, found.used):
        assert answer
        assert "as its code says" not in answer, "the hook's docstring answers no question"


@pytest.mark.parametrize("name", CASES)
def test_a_layer_of_the_package_that_is_not_trained_moves_nothing_and_uses_its_population(name):
    layer = CASES[name].make(trainable=False)
    found = only(layer)
    assert (found.trainable, found.updates, found.remembered) == (False, False, "never")
    assert found.used == "the population's, always: it is not trainable"


def test_the_base_layers_answers_are_those_of_the_design():
    found = only(CASES["BatchNorm"].make())
    assert found.whose == "All examples of this replica's batch"
    assert found.remembered == "An exponential average of the batches'"
    assert found.used == "In training the batch's; At inference the population's"


def test_a_hook_without_words_is_shown_as_code():
    class Own(bnref.BatchNorm):
        def batch_moments(self, x):
            return super().batch_moments(x)

    Own.batch_moments.__doc__ = "Something else."
    assert only(Own(name="own")).whose == "as its code says"


def test_keras_layer_answers_in_the_same_words():
    found = only(keras_norm(momentum=0.9, epsilon=0.01))
    assert (found.momentum, found.epsilon, found.channels, found.axis) == (0.9, 0.01, 3, -1)
    assert found.whose == "all examples of the replica’s batch"
    assert found.remembered == "an exponential average of the batches'"
    assert found.used == "in training the batch's, at inference the population's"
    assert (found.trainable, found.updates, found.synchronized) == (True, True, False)
    assert found.masks
    assert found.fixed


def test_keras_synchronized_layer_counts_the_global_batch():
    found = only(keras_norm(synchronized=True))
    assert found.synchronized
    assert found.whose == "all examples of the global batch"


def test_keras_layer_that_is_not_trained_never_remembers():
    found = only(keras_norm(trainable=False))
    assert (found.trainable, found.updates, found.remembered) == (False, False, "never")
    assert found.used == "the population's, always: it is not trainable"


def test_a_view_reads_the_layer_anew():
    layer = keras_norm()
    found = only(layer)
    layer.trainable = False
    layer.epsilon = 0.5
    assert (found.trainable, found.updates, found.epsilon) == (False, False, 0.5)


@pytest.mark.parametrize(
    "shape, axis, expected",
    [
        ((4, 3), -1, -1),
        ((4, 3), 1, -1),
        ((4, 5, 5, 3), 3, -1),
        ((4, 3, 5, 5), 1, 1),
        ((4, 3, 5, 5), -3, 1),
        ((4, 5, 3, 5), 2, 2),
    ],
)
@LIBRARIES
def test_the_axis_is_minus_one_for_the_last_and_else_counts_from_the_first(
    library, shape, axis, expected
):
    layer = library.layers.BatchNormalization(axis=axis)
    layer.build((None, *shape[1:]))
    found = only(layer)
    assert found.axis == expected
    assert found.channels == 3


@LIBRARIES
def test_what_a_layer_lacks_is_none(library):
    layer = library.layers.BatchNormalization(center=False, scale=False)
    before = only(layer)
    assert (before.built, before.mean, before.variance, before.channels) == (False,) + (None,) * 3
    layer.build((None, 3))
    found = only(layer)
    assert (found.gamma, found.beta) == (None, None)
    assert found.mean is layer.moving_mean
    assert found.variance is layer.moving_variance


def test_tf_keras_counts_masks_where_its_kernel_for_images_is_not_used():
    vectors, images = (tf_keras.layers.BatchNormalization() for _ in range(2))
    vectors.build((None, 5, 3))
    images.build((None, 5, 5, 3))
    assert (only(vectors).masks, only(images).masks) == (True, False)
    assert only(tf_keras.layers.BatchNormalization(synchronized=True)).synchronized


class Foreign(keras.layers.Layer):
    """A norm of a library that nobody here knows."""

    def build(self, shape):
        self.moving_mean = self.add_weight(shape=shape[-1:], trainable=False, initializer="ones")

    def call(self, x, training=None):
        if training:
            self.moving_mean.assign(tf.reduce_mean(x, 0))
        return x - self.moving_mean


def test_a_norm_of_another_library_is_shown_with_what_it_says():
    layer = Foreign(name="foreign")
    layer.build((None, 3))
    found = only(layer)
    assert found.library == Foreign.__module__.partition(".")[0]
    assert found.mean is layer.moving_mean
    assert np.isnan([found.epsilon, found.momentum]).all()
    assert (found.whose, found.remembered, found.used) == ("unknown",) * 3
    assert (found.updates, found.synchronized, found.masks, found.fixed) == (False,) * 4
    assert (found.gamma, found.beta, found.variance) == (None, None, None)


def test_a_norm_of_another_library_is_left_alone_by_a_recomputation():
    layer, known = Foreign(), keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), layer, known])
    before = values(layer)
    assert bnref.population.recompute(model, [batch_of((6, 3))]) == 1
    np.testing.assert_array_equal(layer.moving_mean, before[0])
    np.testing.assert_allclose(known.moving_mean, batch_of((6, 3)).mean(0) - 1, rtol=1e-5)


def test_a_norm_prints_its_path_its_class_and_the_three_answers():
    assert repr(only(keras_norm())) == (
        "<BatchNormalization 'bn': all examples of the replica’s batch; an exponential average of "
        "the batches'; in training the batch's, at inference the population's>"
    )


def test_a_population_is_assigned_through_the_view():
    found = only(keras_norm())
    found.assign(np.array([1.0, 2, 3]), np.array([4.0, 5, 6]))
    np.testing.assert_array_equal(found.mean, [1, 2, 3])
    np.testing.assert_array_equal(found.variance, [4, 5, 6])


@pytest.mark.parametrize("library", [pytest.param(keras, marks=RENORM), tf_keras])
def test_with_renormalization_the_deviation_that_is_remembered_is_assigned_too(library):
    """After it a step that remembers nothing new leaves the variance where it was put."""
    layer = library.layers.BatchNormalization(renorm=True, momentum=1.0, epsilon=0.5)
    layer.build((None, 3))
    only(layer).assign(np.zeros(3), np.array([4.0, 5, 6]))
    np.testing.assert_allclose(layer.moving_stddev, np.sqrt([4.5, 5.5, 6.5]), rtol=1e-6)
    layer(batch_of((8, 3)), training=True)
    np.testing.assert_allclose(layer.moving_variance, [4, 5, 6], rtol=1e-5)


# Moments, and what is remembered in place of them.


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_moments_are_taken_over_all_axes_but_that_of_the_channels(axis):
    last = batch_of((6, 4, 5, 3))
    x = np.moveaxis(last, -1, axis)
    moments = only(keras_norm(x.shape, axis=axis)).moments(x)
    np.testing.assert_allclose(moments.mean[0], last.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(moments.variance[0], last.var((0, 1, 2)), rtol=1e-5)
    assert moments.count.numpy().tolist() == [[120]]


def test_moments_are_those_of_what_a_mask_selects():
    x, mask = batch_of((6, 4, 3)), np.arange(24).reshape(6, 4) % 3 != 1
    x[~mask] = np.nan
    moments = only(keras_norm(x.shape)).moments(x, mask)
    np.testing.assert_allclose(moments.mean[0], x[mask].mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance[0], x[mask].var(0), rtol=1e-5)


def test_a_mask_that_selects_channels_is_refused():
    x = batch_of((6, 4, 3))
    with pytest.raises(ValueError, match="a mask selects channels of 'bn', of axis 1"):
        only(keras_norm(x.shape, axis=1)).moments(x, np.ones((6, 4), bool))


def test_images_of_tf_keras_are_counted_whole_as_its_kernel_does():
    layer, x = tf_keras.layers.BatchNormalization(), batch_of((6, 4, 4, 3))
    layer.build(x.shape)
    moments = only(layer).moments(x, np.zeros((6, 4, 4), bool))
    np.testing.assert_allclose(moments.mean[0], x.mean((0, 1, 2)), rtol=1e-5)


def remembered(layer, x, **options):
    """The moments that are remembered in one call of a layer."""
    seen = []
    with only(layer).remembering(seen.append):
        layer(x, **options)
    return seen


@pytest.mark.parametrize(
    "make",
    [keras_norm, lambda: tf_keras.layers.BatchNormalization(), CASES["BatchNorm"].make],
    ids=["keras", "tf_keras", "bnref"],
)
def test_moments_are_remembered_when_the_layer_would_update_its_population(make):
    layer, x = make(), batch_of((6, 3))
    layer(x)
    assert remembered(layer, x, training=False) == []
    (moments,) = remembered(layer, x, training=True)
    np.testing.assert_allclose(moments.mean[0], x.mean(0), rtol=1e-5)
    layer.trainable = False
    assert remembered(layer, x, training=True) == []


@pytest.mark.parametrize("kind", [FrozenBatchNorm, UntrackedBatchNorm])
def test_a_layer_that_never_updates_remembers_nothing(kind):
    layer, x = kind(), batch_of((6, 3))
    layer(x)
    assert remembered(layer, x, training=True) == []


@pytest.mark.parametrize("make", [keras_norm, CASES["BatchNorm"].make], ids=["keras", "bnref"])
def test_after_remembering_the_layer_is_as_before(make):
    layer, x = make(), batch_of((6, 3))
    own = set(vars(layer))
    with pytest.raises(KeyError, match="of the body"), only(layer).remembering(lambda moments: 0):
        raise KeyError("of the body")
    assert set(vars(layer)) == own
    before = layer.moving_mean.numpy()
    layer(x, training=True)
    assert not np.allclose(layer.moving_mean, before)


class WithACallOfItsOwn(keras.layers.BatchNormalization):
    """Its inputs have another name, and it takes no mask."""

    def call(self, images, training=None):
        return super().call(images, training=training)


def test_a_norm_whose_call_has_other_names_is_looked_into_as_well():
    (moments,) = remembered(WithACallOfItsOwn(), batch_of((6, 3)), training=True)
    np.testing.assert_allclose(moments.mean[0], batch_of((6, 3)).mean(0), rtol=1e-5)


def test_a_call_that_stood_on_the_instance_is_put_back():
    layer = keras_norm()
    own = layer.call = lambda inputs, training=None, mask=None: inputs
    remembered(layer, batch_of((6, 3)), training=True)
    assert layer.call is own


# What norms are given.


@LIBRARIES
def test_what_norms_are_given_is_what_a_model_of_their_inputs_gives(library):
    layers = library.layers
    x = a = library.Input((4,))
    x = layers.BatchNormalization(name="first")(x)
    x = layers.BatchNormalization(name="second")(layers.Dense(3)(x))
    model = library.Model(a, x)
    batch = batch_of((6, 4))
    expected = library.Model(model.input, [each.layer.input for each in find(model)])(batch)
    before = values(model)
    given = norms.inputs(model, batch)
    assert list(given) == ["first", "second"]
    for (found,), each in zip(given.values(), expected, strict=True):
        np.testing.assert_array_equal(found, each)
    for then, now in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(then, now)
    assert all("call" not in vars(each.layer) for each in find(model))


class Twice(keras.Model):
    """A subclass of two inputs, whose one norm is called for each, the other for none."""

    def __init__(self):
        super().__init__()
        self.norm, self.idle = (keras.layers.BatchNormalization() for _ in range(2))

    def build(self, *shapes):
        for each in (self.norm, self.idle):
            each.build((None, 4))

    def call(self, a, b, training=None):
        return self.norm(a, training=training) - self.norm(b, training=training)


def test_what_norms_of_a_subclass_are_given_has_an_array_a_call():
    model, a, b = Twice(), batch_of((6, 4)), batch_of((6, 4)) + 1
    model(a, b)
    before = np.array(model.norm.moving_mean)
    norm, idle = norms.inputs(model, a, b, training=True).values()
    assert idle == []
    for found, each in zip(norm, (a, b), strict=True):
        np.testing.assert_array_equal(found, each)
    assert not np.array_equal(model.norm.moving_mean, before), "as a call in training mode does"


def test_what_norms_are_given_needs_a_model():
    with pytest.raises(ValueError, match="model must be a Keras model or layer; received str"):
        norms.inputs("model", 1)
