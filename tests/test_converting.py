"""Tests of bnref.norms.convert: the norms of a model, replaced by another kind and back."""

import keras
import numpy as np
import pytest
from helpers import BETA, GAMMA, MEAN, VARIANCE, batch_of, with_state

import bnref
from bnref import norms

SHAPE = (6, 5, 3)
OPTIONS = {
    "momentum": 0.7, "epsilon": 0.02, "beta_initializer": keras.initializers.Constant(0.5),
    "gamma_initializer": keras.initializers.Constant(2.0),
    "moving_mean_initializer": keras.initializers.Constant(0.25),
    "moving_variance_initializer": keras.initializers.Constant(3.0),
    "gamma_regularizer": keras.regularizers.L2(0.01), "beta_constraint": keras.constraints.NonNeg(),
}  # fmt: skip
KINDS = {
    "SyncBatchNorm": (bnref.SyncBatchNorm, {}),
    "BatchRenorm": (bnref.BatchRenorm, {"r_max": 2.0, "d_max": 1.0}),
    "FrozenBatchNorm": (bnref.FrozenBatchNorm, {}),
    "GhostBatchNorm": (bnref.GhostBatchNorm, {"groups": 2}),
    "MaskedBatchNorm": (bnref.MaskedBatchNorm, {}),
    "CumulativeBatchNorm": (bnref.CumulativeBatchNorm, {}),
    "Keras": (keras.layers.BatchNormalization, {"synchronized": True}),
}


def norm(name, **options):
    """Keras's layer, of other arguments than its own, with a state."""
    layer = keras.layers.BatchNormalization(name=name, **{**OPTIONS, **options})
    layer.build((None, 5, 3))
    values = {"gamma": GAMMA, "beta": BETA, "moving_mean": MEAN, "moving_variance": VARIANCE}
    for variable in layer.variables:
        variable.assign(values[variable.name])
    return layer


def dense(name):
    layer = keras.layers.Dense(3, name=name)
    layer.build((None, 3))
    random = np.random.default_rng(len(name))
    layer.set_weights([random.normal(size=each.shape) for each in layer.get_weights()])
    return layer


@keras.saving.register_keras_serializable(package="tests")
class Block(keras.layers.Layer):
    """Holds a norm in each kind of attribute."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first = keras.layers.Dense(3)
        self.own = keras.layers.BatchNormalization(name="own")
        self.listed = [keras.layers.BatchNormalization(name="listed"), keras.layers.Dense(3)]
        self.named = {"a": keras.layers.BatchNormalization(name="named")}
        self.tuple = (keras.layers.BatchNormalization(name="tuple"), 3)

    def build(self, shape):
        self.first.build(shape)
        self.listed[1].build(shape)
        for each in (self.own, self.listed[0], self.named["a"], self.tuple[0]):
            each.build(shape)
            with_state(each)

    def call(self, x, training=None):
        x = self.own(self.first(x), training=training)
        x = self.listed[1](self.listed[0](x, training=training))
        return self.tuple[0](self.named["a"](x, training=training), training=training)


class Subclass(keras.Model):
    """A block, a graph of layers and a norm of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.block, self.graph, self.last = Block(name="block"), nested(), norm("last")

    def call(self, x, training=None):
        y = self.graph(self.block(x, training=training), training=training)
        return self.last(y, training=training)


def subclass():
    model = Subclass()
    model(batch_of(SHAPE))
    return model


def functional(body):
    x = keras.Input(SHAPE[1:], name="x")
    return keras.Model(x, body(x), name="net")


def nested():
    inner = keras.Sequential([keras.Input((5, 3)), dense("c"), norm("in")], name="inner")
    return functional(lambda x: inner(norm("out")(dense("d")(x))))


def shared():
    twice = norm("twice")
    return functional(lambda x: twice(dense("b")(twice(dense("a")(x)))))


def wrapped():
    each = keras.layers.TimeDistributed(with_state(keras.layers.BatchNormalization(name="w"), 3))
    return functional(lambda x: norm("after")(each(dense("a")(x))))


MODELS = {
    "Sequential": lambda: keras.Sequential(
        [keras.Input((5, 3), name="x"), dense("a"), norm("n"), norm("m", scale=False, momentum=0.5)]
    ),
    "nested": nested,
    "shared": shared,
    "without beta": lambda: functional(lambda x: norm("n", center=False)(dense("a")(x))),
    "wrapped": wrapped,
    "block": lambda: functional(lambda x: norm("n")(Block(name="block")(x))),
    "subclass": subclass,
    "subclass in a graph": lambda: functional(lambda x: norm("n")(Subclass(name="sub")(x))),
    "masked": lambda: functional(lambda x: norm("n")(keras.layers.Masking()(x))),
}


def outputs(model, **options):
    return np.array(model(batch_of(SHAPE), **options))


def described(model):
    """What stays whatever the kinds: names and values of all variables, in their order."""
    return [(each.path.rpartition("/")[2], each.numpy().tolist()) for each in model.weights]


def kinds(model):
    return {type(norm.layer) for norm in norms.find(model)}


@pytest.mark.parametrize("kind", ["SyncBatchNorm", "FrozenBatchNorm"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_weights_stay_there_and_back(name, kind, tmp_path):
    model = MODELS[name]()
    y, before, paths = outputs(model), described(model), [n.path for n in norms.find(model)]
    model.save_weights(tmp_path / "old.weights.h5")
    there = norms.convert(model, KINDS[kind][0])
    assert kinds(there) == {KINDS[kind][0]}
    assert described(there) == before and [n.path for n in norms.find(there)] == paths
    np.testing.assert_allclose(outputs(there), y, rtol=1e-5, atol=1e-5)
    for variable in there.weights:
        variable.assign(2 * variable + 1)
    there.load_weights(tmp_path / "old.weights.h5")
    assert described(there) == before
    back = norms.convert(there, keras.layers.BatchNormalization)
    assert kinds(back) == {keras.layers.BatchNormalization} and described(back) == before
    np.testing.assert_array_equal(outputs(back), y)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"subclass"}))
def test_a_graph_is_made_anew_and_shares_no_variable(name):
    model = MODELS[name]()
    y, before = outputs(model), described(model)
    converted = norms.convert(model, bnref.BatchNorm)
    assert converted is not model and converted.name == model.name
    assert not {id(each) for each in converted.variables} & {id(each) for each in model.variables}
    for variable in converted.variables:
        variable.assign(variable * 0)
    assert described(model) == before and kinds(model) == {keras.layers.BatchNormalization}
    np.testing.assert_array_equal(outputs(model), y)


def test_a_subclassed_model_is_changed_itself_wherever_it_holds_a_norm():
    model = subclass()
    order, graph = [each.name for each in model.block._layers], model.graph
    named = model.block.named
    assert norms.convert(model, bnref.GhostBatchNorm, groups=2) is model
    held = (model.block.own, model.block.listed[0], model.block.named["a"], model.block.tuple[0])
    assert {type(each) for each in (*held, model.last)} == {bnref.GhostBatchNorm}
    assert model.block.named is named and model.block.tuple[1] == 3
    assert [each.name for each in model.block._layers] == order
    assert model.graph is not graph and len(norms.find(model)) == 7


def test_what_a_subclassed_model_traced_or_compiled_is_not_used_again():
    model = subclass()
    model.compile("sgd", "mse")
    x = batch_of(SHAPE)
    model.fit(x, x, verbose=0)
    before = model.predict(x, verbose=0)
    norms.convert(model, lambda norm: keras.layers.UnitNormalization())
    assert np.abs(model.predict(x, verbose=0) - before).max() > 0.1
    with pytest.raises(ValueError, match="compile"):
        model.fit(x, x, verbose=0)
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)


def test_a_norm_in_several_places_stays_one():
    converted = norms.convert(shared(), bnref.BatchNorm)
    assert len(norms.find(converted)) == 1
    assert len(norms.find(converted)[0].sources) == 2


@pytest.mark.parametrize("name", KINDS)
def test_a_norm_keeps_its_arguments_and_takes_the_options(name):
    kind, options = KINDS[name]
    model = keras.Sequential([keras.Input((5, 3)), norm("n", axis=2, dtype="mixed_bfloat16")])
    (found,) = norms.find(norms.convert(model, kind, **options))
    config = found.layer.get_config()
    for key in ("axis", "center", "scale", *OPTIONS):
        assert config[key] == model.layers[0].get_config()[key], key
    assert (found.path, found.layer.compute_dtype, type(found.layer)) == ("n", "bfloat16", kind)
    for key, value in options.items():
        points = getattr(getattr(found.layer, key), "points", None)
        assert getattr(found.layer, key) == value or points == [[0, value]]


def test_an_option_goes_before_what_the_old_norm_has():
    model = nested()
    converted = norms.convert(model, bnref.SyncBatchNorm, momentum=0.4)
    assert [(each.momentum, each.epsilon) for each in norms.find(converted)] == [(0.4, 0.02)] * 2
    assert {each.momentum for each in norms.find(model)} == {0.7}


class OwnStep(keras.Model):
    """A graph of layers that is trained in a way of its own."""

    def train_step(self, data):
        return {"own": 1.0}


class OwnMaker(keras.Model):
    """A graph of layers, made of something else than inputs and outputs."""

    def __init__(self, units):
        x = keras.Input(SHAPE[1:])
        super().__init__(x, norm("n")(keras.layers.Dense(units)(x)))


@pytest.mark.parametrize("inner", [False, True])
def test_a_graph_of_a_class_of_its_own_stays_one_if_it_is_made_of_inputs_and_outputs(inner):
    x = keras.Input(SHAPE[1:])
    model = OwnStep(x, norm("n")(dense("a")(x)), name="own")
    whole = functional(lambda y: norm("m")(model(y))) if inner else model
    converted = norms.convert(whole, bnref.BatchNorm)
    assert type(converted.get_layer("own") if inner else converted) is OwnStep
    assert not isinstance(norms.convert(OwnMaker(3), bnref.BatchNorm), OwnMaker)


def test_a_new_norm_is_built_for_the_shape_that_a_graph_calls_it_with():
    """The old one was built for a vector; Keras's takes inputs of as many axes as it was built."""
    model = functional(lambda x: with_state(bnref.BatchNorm(name="n"))(dense("a")(x)))
    converted = norms.convert(model, keras.layers.BatchNormalization)
    np.testing.assert_allclose(outputs(converted), outputs(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["Sequential", "nested", "wrapped", "block", "subclass"])
def test_what_is_frozen_stays_frozen_and_nothing_else_is(name):
    model = MODELS[name]()
    last = norms.find(model)[-1]
    last.layer.trainable = False
    flags = [norm.trainable for norm in norms.find(model)]
    assert flags.count(False) == 1
    trained = [each.path.rpartition("/")[2] for each in model.trainable_variables]
    converted = norms.convert(model, bnref.SyncBatchNorm)
    assert [norm.trainable for norm in norms.find(converted)] == flags
    assert [each.path.rpartition("/")[2] for each in converted.trainable_variables] == trained


def test_a_frozen_model_with_a_norm_that_is_not_stays_so():
    model = nested()
    model.trainable = False
    norms.find(model)[0].layer.trainable = True
    converted = norms.convert(model, bnref.SyncBatchNorm)
    assert not converted.trainable and [n.trainable for n in norms.find(converted)] == [True, False]


def test_training_moves_the_population_as_the_new_kind_says():
    model = keras.Sequential([keras.Input((5, 3)), norm("n")])
    x = batch_of((4, 5, 3))
    x[2:] += 7  # the two groups differ
    old = {each.name: each.numpy() for each in model.layers[0].variables}
    converted = norms.convert(model, bnref.GhostBatchNorm, groups=2)
    converted(x, training=True)
    mean, variance = x.mean((0, 1)), np.mean([x[:2].var((0, 1)), x[2:].var((0, 1))], 0)
    layer = converted.layers[0]
    np.testing.assert_allclose(layer.moving_mean, 0.7 * old["moving_mean"] + 0.3 * mean, 1e-4)
    wanted = 0.7 * old["moving_variance"] + 0.3 * variance
    np.testing.assert_allclose(layer.moving_variance, wanted, 1e-4)


def test_only_the_norms_that_are_named_are_replaced():
    model = nested()
    converted = norms.convert(model, bnref.SyncBatchNorm, only=["inner/in"])
    libraries = {norm.path: norm.library for norm in norms.find(converted)}
    assert libraries == {"inner/in": "bnref", "out": "keras"}
    np.testing.assert_allclose(outputs(converted), outputs(model), rtol=1e-5, atol=1e-5)


def test_a_function_chooses_the_layer_and_a_norm_alone_is_converted_too():
    def synchronized(found):
        return bnref.SyncBatchNorm(name=found.path, momentum=found.momentum / 2)

    layer = norms.convert(norm("n"), synchronized)
    assert (type(layer), layer.name, layer.momentum) == (bnref.SyncBatchNorm, "n", 0.35)
    np.testing.assert_array_equal(layer.moving_variance, norm("n").moving_variance)


@pytest.mark.parametrize("name", ["Sequential", "masked", "subclass"])
def test_group_normalization_keeps_gamma_and_beta_and_has_no_population(name):
    model = MODELS[name]()
    gamma = [n.gamma.numpy() for n in norms.find(model) if n.gamma is not None]
    converted = norms.convert(model, keras.layers.GroupNormalization, groups=1)
    assert norms.find(converted) == []
    found = [each for each in converted._flatten_layers() if "Group" in type(each).__name__]
    kept = [each.gamma.numpy() for each in found if each.gamma is not None]
    assert sorted(map(list, kept)) == sorted(map(list, gamma))
    assert outputs(converted).shape == SHAPE


@pytest.mark.parametrize("kind", ["BatchRenorm", "CumulativeBatchNorm"])
def test_an_old_file_leaves_what_only_the_new_kind_counts(kind, tmp_path):
    model = MODELS["Sequential"]()
    model.save_weights(tmp_path / "old.weights.h5")
    converted = norms.convert(model, KINDS[kind][0])
    converted(batch_of(SHAPE), training=True)
    converted.load_weights(tmp_path / "old.weights.h5")
    for layer in converted.layers[1:]:
        old = {each.name: each for each in model.get_layer(layer.name).variables}
        for variable in layer.variables:
            np.testing.assert_array_equal(variable, old.get(variable.name, 1))
        assert {each.name for each in layer.variables} - set(old) <= {"steps", "updates"}


def test_a_file_without_the_layer_is_still_refused(tmp_path):
    keras.Sequential([keras.Input((5, 3)), norm("other")]).save_weights(tmp_path / "a.weights.h5")
    model = keras.Sequential([keras.Input((5, 3)), with_state(bnref.SyncBatchNorm(name="n"))])
    with pytest.raises(ValueError, match="expected 4 variables, but received 0"):
        model.load_weights(tmp_path / "a.weights.h5")


class Unreadable(keras.layers.Layer):
    """Its configuration does not tell how it was made; it may have a variable."""

    def __init__(self, function, variables=1):
        super().__init__(name="unreadable")
        self.function = function
        self.shifts = [self.add_weight(shape=(3,)) for _ in range(variables)]

    def call(self, x):
        return sum(self.shifts, self.function(x))


class Forgetful(keras.layers.Dense):
    """Its configuration says nothing of its type of numbers."""

    def get_config(self):
        return {"units": self.units}


class OwnCall(keras.Sequential):
    """Does something else than its graph."""

    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training)


def sequential(*layers):
    return keras.Sequential([keras.Input((5, 3)), *layers])


def test_what_cannot_be_replaced_is_named_in_one_error_and_nothing_changed():
    model = subclass()
    model.block._tracker.unlock()
    model.block.extra = keras.layers.BatchNormalization(name="extra")
    model.block.axis_1 = keras.layers.BatchNormalization(axis=1, name="axis_1")
    model.block.axis_1.build((None, 5, 3))
    before = list(model._flatten_layers())
    with pytest.raises(ValueError, match="these cannot be replaced") as told:
        norms.convert(model, bnref.BatchNorm)
    lines = str(told.value).splitlines()[1:]
    assert [each.partition(":")[0] for each in lines] == ["block/extra", "block/axis_1"]
    assert "not built" in lines[0] and "axis must be -1 or 2" in lines[1]
    assert list(model._flatten_layers()) == before


def tf_keras_layer():
    import tf_keras

    layer = tf_keras.layers.BatchNormalization(name="n")
    layer.build((None, 3))
    return layer


@pytest.mark.parametrize(
    "make, to, options, message",
    [
        (lambda: keras.layers.Dense(3), bnref.BatchNorm, {}, "model must have a norm; it has none"),
        (nested, "SyncBatchNorm", {}, "to must be a class of layers, or a function of a norm"),
        (nested, lambda norm: None, {}, "out: to must return a layer; it returned None"),
        (nested, lambda norm: None, {"groups": 2}, "options go with a class; received groups"),
        (nested, bnref.BatchNorm, {"only": "out"}, "only must be a collection of paths"),
        (nested, bnref.BatchNorm, {"only": ["in"]}, r"only must name .*inner/in.* received \['in"),
        (nested, bnref.DomainBatchNorm, {"domains": 2}, r"its gamma has shape \(3,\), and here"),
        (nested, keras.layers.GroupNormalization, {}, "out: .*[Gg]roups"),
        (
            lambda: sequential(norm("n"), Unreadable(keras.ops.abs)),
            bnref.BatchNorm, {}, "unreadable: it cannot be copied; its get_config must tell how",
        ),
        (
            lambda: sequential(norm("n"), Forgetful(3, dtype="bfloat16", name="forgetful")),
            bnref.BatchNorm, {}, "forgetful: it cannot be copied; its get_config must tell how",
        ),
        (
            lambda: OwnCall([keras.Input((5, 3)), norm("n")], name="own"),
            bnref.BatchNorm, {}, "own: its call is not that of a functional or Sequential model",
        ),
        (tf_keras_layer, bnref.BatchNorm, {}, "n: norms of tf_keras are not converted"),
    ],
    ids=["no norm", "a string", "no layer", "function's options", "a string of paths",
         "unknown path", "domains", "groups", "no config", "no dtype", "own call", "tf_keras"],
)  # fmt: skip
def test_what_is_refused_is_named(make, to, options, message):
    with pytest.raises(ValueError, match=message):
        norms.convert(make(), to, **options)


def test_a_layer_without_variables_is_shared_where_it_cannot_be_copied():
    model = sequential(norm("n"), Unreadable(keras.ops.abs, variables=0))
    converted = norms.convert(model, bnref.BatchNorm)
    assert converted.layers[-1] is model.layers[-1]
    np.testing.assert_allclose(outputs(converted), outputs(model), rtol=1e-5)


def test_what_else_has_a_state_has_it_in_the_copy():
    model = sequential(norm("n"), keras.layers.Dropout(0.5, seed=3))
    outputs(model, training=True)
    converted = norms.convert(model, keras.layers.BatchNormalization)
    for one, other in zip(converted.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other)
