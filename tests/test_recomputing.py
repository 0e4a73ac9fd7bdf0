"""Tests of bnref.population.recompute on models of any make, against a pass written by hand."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
import tf_keras
from helpers import RENORM, assert_same_values, batch_of, values

import bnref
from bnref.population import recompute

EPSILON = 0.02
LIBRARIES = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
BATCHES = [batch_of((size, 4), size) / [1, 3, 9, 27] for size in (5, 9, 2)]


def randomized(model):
    """No variable is what it starts as; the random state of dropout is left as it is."""
    random = np.random.default_rng(3)
    for each in model.variables:
        if "float" in str(each.dtype):
            each.assign(random.uniform(0.5, 2, each.shape))
    return model


def norm(library, name, **options):
    return library.layers.BatchNormalization(name=name, epsilon=EPSILON, **options)


def assert_population(layer, expected, rtol=1e-4):
    np.testing.assert_allclose(layer.moving_mean, expected[0], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(layer.moving_variance, expected[1], rtol=rtol)


def precise(layers, batches):
    """(mean, variance) for each norm of a chain of dense layers, tanh and norms, in float64.

    The formulas are those of the papers: every norm normalizes by its own batch, and its population
    is that of all batches together.
    """
    found = {}
    for layer in layers:
        if "normalization" in type(layer).__name__.lower() or hasattr(layer, "moving_mean"):
            found[layer.name] = reference.precise_pooled(batches)
            gamma, beta = (np.array(each, "float64") for each in (layer.gamma, layer.beta))
            batches = [reference.batch_norm(x, gamma, beta, epsilon=EPSILON) for x in batches]
        else:
            kernel, bias = (np.array(each, "float64") for each in layer.weights)
            batches = [np.tanh(x @ kernel + bias) for x in batches]
    return found


def chain(library):
    return [
        norm(library, "first"),
        library.layers.Dense(3, "tanh", name="dense"),
        norm(library, "second"),
    ]


def functional(library):
    layers = chain(library)
    x = inputs = library.Input((4,))
    for layer in layers:
        x = layer(x)
    return library.Model(inputs, x), layers


def sequential(library):
    layers = chain(library)
    return library.Sequential([library.Input((4,)), *layers]), layers


def nested(library):
    first, *others = layers = chain(library)
    inner_input = library.Input((3 + 1,))
    x = inner_input
    for layer in others:
        x = layer(x)
    inner = library.Model(inner_input, x, name="inner")
    return library.Sequential([library.Input((4,)), first, inner]), layers


def subclassed(library):
    class Net(library.Model):
        """Its ``call`` knows no ``training``: the layers find it out by themselves."""

        def __init__(self):
            super().__init__()
            self.parts = chain(library)

        def call(self, x):
            for each in self.parts:
                x = each(x)
            return x

    model = Net()
    model(BATCHES[0])
    return model, model.parts


def in_a_layer(library):
    class Block(library.layers.Layer):
        def __init__(self):
            super().__init__()
            self.parts = chain(library)

        def call(self, x, training=None):
            for each in self.parts:
                x = each(x, training=training) if "dense" not in each.name else each(x)
            return x

    block = Block()
    return library.Sequential([library.Input((4,)), block]), block.parts


MAKES = pytest.mark.parametrize(
    "make",
    [functional, sequential, nested, subclassed, in_a_layer],
)


@LIBRARIES
@MAKES
def test_populations_are_those_of_a_pass_by_hand_and_all_else_is_the_same_to_the_bit(make, library):
    model, layers = make(library)
    randomized(model)
    kept = {id(each): np.array(each) for each in model.variables}
    assert recompute(model, BATCHES) == 2
    for name, expected in precise(layers, BATCHES).items():
        assert_population(next(each for each in layers if each.name == name), expected)
    for each in model.variables:
        if "moving" not in each.name:
            np.testing.assert_array_equal(each, kept[id(each)], err_msg=each.name)


def test_corrected_populations_of_keras_layers_are_those_of_the_paper():
    model, (first, *_) = functional(keras)
    recompute(model, BATCHES, variance="corrected")
    assert_population(first, reference.precise_corrected(BATCHES))


class NeverCalled(keras.Model):
    """Makes its norm when it is built."""

    def build(self, shape):
        self.norm = norm(keras, "norm")

    def call(self, x):
        return self.norm(2 * x)


class OfTwo(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = norm(keras, "norm")

    def call(self, a, b):
        return self.norm(a + b)


@pytest.mark.parametrize("kind", [NeverCalled, OfTwo])
def test_a_model_that_never_saw_a_batch_is_built_by_the_first(kind):
    model = kind()
    batches = iter(BATCHES if kind is NeverCalled else list(zip(BATCHES, BATCHES, strict=True)))
    assert recompute(model, batches) == 1
    assert_population(model.norm, reference.precise_pooled([2 * x for x in BATCHES]))


@LIBRARIES
def test_a_sequential_model_without_an_input_is_built_by_the_first(library):
    layer = norm(library, "norm")
    assert recompute(library.Sequential([layer]), BATCHES) == 1
    assert_population(layer, reference.precise_pooled(BATCHES))


# What batches are.


Y, WEIGHTS = np.ones((5, 1)), np.ones(5)


def as_dataset(batches):
    def pairs():
        for x in batches:
            yield x, np.zeros(len(x), "float32")

    signature = tf.TensorSpec((None, 4)), tf.TensorSpec((None,))
    return tf.data.Dataset.from_generator(pairs, output_signature=signature)


class AsSequence(keras.utils.PyDataset):
    def __len__(self):
        return len(BATCHES)

    def __getitem__(self, index):
        return BATCHES[index], np.zeros(len(BATCHES[index]))


FORMS = {
    "a generator": lambda: (x for x in BATCHES),
    "tensors": lambda: [tf.constant(x) for x in BATCHES],
    "(x,)": lambda: [(x,) for x in BATCHES],
    "(x, y)": lambda: [(x, np.zeros(len(x))) for x in BATCHES],
    "(x, y, w)": lambda: [(x, np.zeros(len(x)), np.ones(len(x))) for x in BATCHES],
    "(x, y) of a dict": lambda: [(x, {"a": np.zeros(len(x))}) for x in BATCHES],
    "tf.data": lambda: as_dataset(BATCHES),
    "PyDataset": lambda: AsSequence(workers=1),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_come_in_every_form_that_fit_takes(form):
    model, (first, *_) = functional(keras)
    recompute(model, FORMS[form]())
    assert_population(first, reference.precise_pooled(BATCHES))


def two_inputs(kind):
    """A norm of a + 2·b, in a graph whose inputs have names, or with two arguments."""
    layer = norm(keras, "norm")
    if kind != "arguments":
        a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        inputs = {"a": a, "b": b} if kind == "dict" else [a, b]
        return keras.Model(inputs, layer(a + 2 * b)), layer

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = layer

        def call(self, a, b, training=False):
            return self.norm(a + 2 * b, training=training)

    return Net(), layer


PAIRS = [(x, (x[::-1] ** 2).copy()) for x in BATCHES]
TARGET = np.zeros(1)
TWO = {
    "a list": ("list", [[a, b] for a, b in PAIRS]),
    "(list, y)": ("list", [([a, b], TARGET) for a, b in PAIRS]),
    "(tuple, y)": ("list", [((a, b), TARGET) for a, b in PAIRS]),
    "(tuple, y, w)": ("list", [((a, b), TARGET, TARGET) for a, b in PAIRS]),
    "a tuple": ("list", PAIRS),
    "a dict": ("dict", [{"a": a, "b": b} for a, b in PAIRS]),
    "a dict, other order": ("dict", [{"b": b, "a": a} for a, b in PAIRS]),
    "(dict, y)": ("dict", [({"a": a, "b": b}, TARGET) for a, b in PAIRS]),
    "arguments, a tuple": ("arguments", PAIRS),
    "arguments, a list": ("arguments", [[a, b] for a, b in PAIRS]),
    "arguments, (a, b, y)": ("arguments", [(a, b, TARGET) for a, b in PAIRS]),
    "arguments, ((a, b), y)": ("arguments", [((a, b), TARGET) for a, b in PAIRS]),
}


@pytest.mark.parametrize("form", TWO)
def test_a_model_of_two_inputs_is_given_both_in_every_form(form):
    kind, batches = TWO[form]
    model, layer = two_inputs(kind)
    assert recompute(model, batches) == 1
    assert_population(layer, reference.precise_pooled([a + 2 * b for a, b in PAIRS]))


# What acts in training only.


class Doubling(keras.layers.Layer):
    """An own layer that does something else in training."""

    def call(self, x, training=False):
        return 2 * x if training else x


ACTING = {
    "Dropout": lambda: keras.layers.Dropout(0.5, seed=1),
    "GaussianNoise": lambda: keras.layers.GaussianNoise(1.0, seed=1),
    "its own": Doubling,
    "nested": lambda: keras.Sequential([keras.layers.Dropout(0.5, seed=1)]),
    "two in one": lambda: keras.Sequential([keras.layers.Dropout(0.5, seed=1), Doubling()]),
}


def behind(acting):
    layer = norm(keras, "norm")
    return keras.Sequential([keras.Input((4,)), acting(), layer]), layer


@pytest.mark.parametrize("name", ACTING)
def test_without_dropout_a_norm_is_given_what_it_gets_at_inference(name):
    model, layer = behind(ACTING[name])
    before = values(model)
    recompute(model, BATCHES, dropout=False)
    assert_population(layer, reference.precise_pooled(BATCHES))
    for each, old in zip(model.variables, before, strict=True):
        if "moving" not in each.name:  # the random state stands still as well
            np.testing.assert_array_equal(each, old, err_msg=each.name)


@pytest.mark.parametrize("name", ACTING)
def test_with_dropout_a_norm_is_given_what_it_gets_in_training(name):
    model, layer = behind(ACTING[name])
    recompute(model, BATCHES)
    ratio = layer.moving_variance.numpy() / reference.precise_pooled(BATCHES)[1]
    assert ratio[:2].min() > 1.1, "the variance of what it adds is missing"
    acting = model.layers[0]
    within = np.array(acting(BATCHES[0], training=True))
    assert not np.allclose(within, BATCHES[0]), "afterwards it acts in training again"


@LIBRARIES
def test_dropout_of_a_rate_is_known_in_closed_form(library):
    """Inverted dropout keeps the mean and makes E[x²] 1/(1 - rate) times as large."""
    layer = norm(library, "norm")
    model = library.Sequential([library.Input((4,)), library.layers.Dropout(0.5, seed=1), layer])
    x = batch_of((20000, 4)) / [1, 3, 9, 27]
    recompute(model, np.split(x, 4))
    mean, variance = x.mean(0), x.var(0)
    expected = 2 * (variance + mean**2) - mean**2
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=0.05)
    recompute(model, np.split(x, 4), dropout=False)
    assert_population(layer, (mean, variance), rtol=1e-3)


def test_without_dropout_recurrent_layers_drop_nothing_either():
    layer = norm(keras, "norm")
    recurrent = keras.layers.LSTM(3, dropout=0.9, recurrent_dropout=0.9, seed=1)
    model = randomized(keras.Sequential([keras.Input((5, 4)), recurrent, layer]))
    x = batch_of((8, 5, 4)) / [1, 3, 9, 27]
    recompute(model, [x], dropout=False)
    assert_population(layer, reference.precise_pooled([recurrent(x, training=False)]))


# Which norms are replaced, and over what.


class AtInference(keras.layers.Layer):
    """Calls a norm with ``training=False``, whatever it is told itself."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def call(self, x):
        return self.norm(x, training=False)


def test_a_graph_of_keras_layers_overrules_training_false_as_it_does_in_fit():
    layer, inputs = norm(keras, "norm"), keras.Input((4,))
    model = keras.Model(inputs, layer(inputs, training=False))
    before = np.array(layer.moving_mean)
    model(BATCHES[0], training=True)
    assert not np.allclose(layer.moving_mean, before)
    assert recompute(model, BATCHES) == 1


@LIBRARIES
@pytest.mark.parametrize("how", ["not trainable", "training=False"])
def test_a_norm_that_is_not_trained_keeps_its_population_and_normalizes_by_it(library, how):
    frozen, live = norm(library, "frozen"), norm(library, "live")
    x = inputs = library.Input((4,))
    if how == "not trainable":
        frozen.trainable = False
        x = frozen(x)
    else:
        x = AtInference(frozen)(x) if library is keras else frozen(x, training=False)
    model = randomized(library.Model(inputs, live(x)))
    before = [np.array(each) for each in frozen.variables]
    assert recompute(model, BATCHES) == 1
    for each, old in zip(frozen.variables, before, strict=True):
        np.testing.assert_array_equal(each, old)
    named = {each.name.split("/")[-1].split(":")[0]: np.array(each) for each in frozen.variables}
    gamma, beta = named["gamma"], named["beta"]
    mean, variance = named["moving_mean"], named["moving_variance"]
    passed_on = [
        reference.normalized_by(mean, variance, x, gamma, beta, epsilon=EPSILON) for x in BATCHES
    ]
    assert_population(live, reference.precise_pooled(passed_on))


def test_a_model_of_frozen_norms_alone_is_refused():
    model, _ = functional(keras)
    model.trainable = False
    with pytest.raises(ValueError, match="a batch norm that updates its population; found none"):
        recompute(model, BATCHES)


@LIBRARIES
def test_steps_that_a_mask_leaves_out_are_not_counted(library):
    layer = norm(library, "norm")
    model = library.Sequential([library.Input((None, 4)), library.layers.Masking(), layer])
    batches = [batch_of((size, size + 1, 4), size) for size in (3, 6)]
    for x in batches:
        x[1, 1:] = 0
        x[2] = 0
    recompute(model, batches)
    counted = [x[np.any(x != 0, -1)] for x in batches]
    assert_population(layer, reference.precise_pooled(counted))
    # That is what the layer itself remembers of a batch.
    own = norm(library, "own", momentum=0.0)
    library.Sequential([library.Input((None, 4)), library.layers.Masking(), own])(
        batches[0], training=True
    )
    mean, variance = reference.moments(counted[0])
    assert_population(own, (mean, variance), rtol=1e-3)


@LIBRARIES
def test_channels_may_stand_on_another_axis(library):
    layer = norm(library, "norm", axis=1)
    model = library.Sequential([library.Input((4, 5, 2)), layer])
    batches = [batch_of((size, 5, 2, 4), size) for size in (3, 6)]
    recompute(model, [np.moveaxis(x, -1, 1).copy() for x in batches])
    assert_population(layer, reference.precise_pooled(batches))


@LIBRARIES
def test_a_norm_of_each_step_is_pooled_over_steps(library):
    layer = norm(library, "norm")
    model = library.Sequential([library.Input((5, 4)), library.layers.TimeDistributed(layer)])
    batches = [batch_of((size, 5, 4), size) for size in (3, 6)]
    assert recompute(model, batches) == 1
    assert_population(layer, reference.precise_pooled(batches))


@LIBRARIES
def test_a_shared_norm_has_the_statistics_of_all_its_calls(library):
    layer, inputs = norm(library, "norm"), library.Input((4,))
    outputs = [layer(inputs), layer(library.layers.Rescaling([2.0, 1.0, -1.0, 0.5])(inputs))]
    assert recompute(library.Model(inputs, outputs), BATCHES) == 1
    seen = [x * scale for x in BATCHES for scale in (1, np.array([2.0, 1.0, -1.0, 0.5]))]
    assert_population(layer, reference.precise_pooled(seen))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_statistics_are_float32_or_better_whatever_the_inputs_are(policy):
    keras.config.set_dtype_policy(policy)
    layer = norm(keras, "norm")
    dtype = "float64" if policy == "float64" else "float32"
    model = keras.Sequential([keras.Input((4,), dtype=dtype), layer])
    short = {"mixed_float16": "float16", "mixed_bfloat16": tf.bfloat16.as_numpy_dtype}
    batches = [x.astype(short.get(policy, "float64")) for x in BATCHES]
    recompute(model, batches)
    expected = reference.precise_pooled([x.astype("float64") for x in batches])
    assert_population(layer, expected, rtol=1e-12 if policy == "float64" else 1e-5)


def test_libraries_may_stand_in_one_model():
    layers = [norm(keras, "keras"), bnref.BatchNorm(name="bnref", epsilon=EPSILON)]
    model = randomized(keras.Sequential([keras.Input((4,)), *layers]))
    assert recompute(model, BATCHES) == 2
    for each, expected in precise(layers, BATCHES).items():
        assert_population(model.get_layer(each), expected)


def test_keras_synchronized_norm_on_one_device_counts_the_batch():
    layer = norm(keras, "norm", synchronized=True)
    recompute(keras.Sequential([keras.Input((4,)), layer]), BATCHES)
    assert_population(layer, reference.precise_pooled(BATCHES))


@RENORM
def test_renormalization_of_keras_goes_on_from_what_was_recomputed():
    layer = norm(keras, "norm", renorm=True, momentum=0.5)
    recompute(keras.Sequential([keras.Input((4,)), layer]), BATCHES)
    mean, variance = reference.precise_pooled(BATCHES)
    assert_population(layer, (mean, variance))
    layer(BATCHES[0], training=True)
    batch_mean, batch_variance = reference.moments(BATCHES[0])
    deviation = (np.sqrt(variance + EPSILON) + np.sqrt(batch_variance + EPSILON)) / 2
    assert_population(layer, ((mean + batch_mean) / 2, deviation**2 - EPSILON))


def raising():
    yield BATCHES[0]
    raise OSError("no more data")


POISON = BATCHES[1].copy()
POISON[3, 2] = np.nan


@LIBRARIES
@pytest.mark.parametrize(
    "batches, error, message",
    [
        (raising, OSError, "no more data"),
        (lambda: [BATCHES[0], POISON], ValueError, "not finite in layer 'first'"),
        (lambda: [BATCHES[0], BATCHES[1][:, :3]], ValueError, "incompatible|expected axis"),
        (lambda: [], ValueError, "batches must hold at least one batch; received none"),
    ],
    ids=["raises", "NaN", "other channels", "none"],
)
def test_an_error_leaves_the_model_as_it_was(library, batches, error, message):
    model, _ = functional(library)
    before = values(randomized(model))
    with pytest.raises(error, match=message):
        recompute(model, batches())
    assert_same_values(model, before)


def test_a_later_norm_that_is_not_finite_leaves_the_earlier_one_as_it_was():
    model, (_, dense, _) = functional(keras)
    dense.bias.assign([1, np.nan, 1])
    before = values(model)
    with pytest.raises(ValueError, match="not finite in layer 'second'"):
        recompute(model, BATCHES)
    assert_same_values(model, before)


def test_a_bad_variance_of_a_norm_that_keeps_it_is_named_and_nothing_changes():
    model, (first, *_) = functional(keras)
    first.trainable = False
    first.moving_variance.assign([1, -1, 1, 1])
    before = values(model)
    with pytest.raises(ValueError, match="moving_variance of layer 'first' must be finite"):
        recompute(model, BATCHES)
    assert_same_values(model, before)


@pytest.mark.slow
def test_a_network_of_fifty_norms_is_recomputed_whole():
    """The first norm by hand; the last one by what the network gives it in a pass of training."""
    model = keras.applications.MobileNetV2((64, 64, 3), weights=None, classes=10)
    # The random state of Keras's initializers is fixed by the tests' own fixture.
    batches = [batch_of((8, 64, 64, 3), seed) for seed in range(2)]
    first, last = model.get_layer("bn_Conv1"), model.get_layer("Conv_1_bn")
    kept = [np.array(each) for each in model.trainable_variables]
    assert recompute(model, batches) == 52
    for each, old in zip(model.trainable_variables, kept, strict=True):
        np.testing.assert_array_equal(each, old)
    before = keras.Model(model.input, [first.input, last.input])
    with bnref.population.unchanged(model):
        inputs = [before(x, training=True) for x in batches]
    for layer, seen in zip((first, last), zip(*inputs, strict=True), strict=True):
        assert_population(layer, reference.precise_pooled(seen), rtol=1e-3)
