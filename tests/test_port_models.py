"""Tests of bnref.conventions.port_model and export_model, against a network written in NumPy."""

import keras
import numpy as np
import pytest
import tf_keras
from helpers import RENORM, assert_same_values, values

import bnref
from bnref import population
from bnref.conventions import export_model, port_model

LIBRARIES = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
FRAMEWORKS = pytest.mark.parametrize("source", ["pytorch", "flax"])
EPSILON = 1e-5
X = np.random.default_rng(5).normal(1, 2, (6, 5, 4, 3))  # images, channels last


# The network in PyTorch's layout, in float64: convolution, norm, depthwise convolution, norm,
# transposed convolution, Flatten, dense layer, norm, dense layer.


def pytorch_state(seed=0):
    """A ``state_dict`` in the order of the network, of statistics as training leaves them."""
    random = np.random.default_rng(seed)

    def kernel(*shape):
        return random.normal(0, 0.4, shape)

    def norm(channels):
        return {
            "weight": random.uniform(0.5, 2, channels) * random.choice([-1, 1], channels),
            "bias": random.normal(0, 1, channels),
            "running_mean": random.normal(0, 2, channels),
            "running_var": 10 ** random.uniform(-1, 1, channels),
            "num_batches_tracked": np.array(30),
        }

    modules = {
        "features.0": {"weight": kernel(4, 3, 3, 3), "bias": kernel(4)},
        "features.1": norm(4),
        "features.3": {"weight": kernel(8, 1, 3, 3)},
        "features.4": norm(8),
        "up": {"weight": kernel(8, 2, 2, 3), "bias": kernel(2)},
        "fc": {"weight": kernel(7, 2 * 6 * 6), "bias": kernel(7)},
        "bn": norm(7),
        "head": {"weight": kernel(3, 7), "bias": kernel(3)},
    }
    return {f"{m}.{name}": value for m, own in modules.items() for name, value in own.items()}


def normalized(x, state, name, epsilon=EPSILON):
    w = {key: state[f"{name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
    w = {key: each.reshape(-1, *[1] * (x.ndim - 2)) for key, each in w.items()}
    return w["weight"] * (x - w["running_mean"]) / np.sqrt(w["running_var"] + epsilon) + w["bias"]


def convolved(x, weight, padding, groups=1):
    """What torch.nn.Conv2d does to (N, C, H, W), as its documentation has it."""
    x = np.pad(x, [(0, 0), (0, 0), (padding,) * 2, (padding,) * 2])
    out, each, height, width = weight.shape
    rows, columns = x.shape[2] - height + 1, x.shape[3] - width + 1
    y = np.zeros((len(x), out, rows, columns))
    for o in range(out):
        first = o // (out // groups) * each
        for i in range(rows):
            for j in range(columns):
                window = x[:, first : first + each, i : i + height, j : j + width]
                y[:, o, i, j] = np.sum(window * weight[o], (1, 2, 3))
    return y


def spread(x, weight):
    """What torch.nn.ConvTranspose2d does: each value puts the kernel where it stands."""
    _, out, height, width = weight.shape
    y = np.zeros((len(x), out, x.shape[2] + height - 1, x.shape[3] + width - 1))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            y[:, :, i : i + height, j : j + width] += np.einsum(
                "nc,cohw->nohw", x[:, :, i, j], weight
            )
    return y


def pytorch_network(state, images, epsilon=EPSILON):
    x = images.transpose(0, 3, 1, 2)
    x = convolved(x, state["features.0.weight"], 1) + state["features.0.bias"][:, None, None]
    x = np.maximum(normalized(x, state, "features.1", epsilon), 0)
    x = normalized(convolved(x, state["features.3.weight"], 1, groups=4), state, "features.4")
    x = spread(np.maximum(x, 0), state["up.weight"]) + state["up.bias"][:, None, None]
    x = x.reshape(len(x), -1) @ state["fc.weight"].T + state["fc.bias"]
    x = np.maximum(normalized(x, state, "bn", epsilon), 0)
    return x @ state["head.weight"].T + state["head.bias"]


def flax_state(state):
    """The same network as Flax has it, written out by hand: channels last, everywhere."""
    params, statistics = {}, {}

    def norm(theirs, ours):
        params[ours] = {"scale": state[f"{theirs}.weight"], "bias": state[f"{theirs}.bias"]}
        mean, variance = state[f"{theirs}.running_mean"], state[f"{theirs}.running_var"]
        statistics[ours] = {"mean": mean, "var": variance}

    kernel = state["features.0.weight"]
    params["Conv_0"] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": state["features.0.bias"]}
    norm("features.1", "BatchNorm_0")
    params["Conv_1"] = {"kernel": state["features.3.weight"].transpose(2, 3, 1, 0)}
    norm("features.4", "BatchNorm_1")
    # Flax convolves what was spread out, by the kernel that is mirrored.
    kernel = state["up.weight"][:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    params["ConvTranspose_0"] = {"kernel": kernel, "bias": state["up.bias"]}
    rows = state["fc.weight"].reshape(7, 2, 6, 6).transpose(2, 3, 1, 0).reshape(-1, 7)
    params["Dense_0"] = {"kernel": rows, "bias": state["fc.bias"]}
    norm("bn", "BatchNorm_2")
    params["Dense_1"] = {"kernel": state["head.weight"].T, "bias": state["head.bias"]}
    return {"params": params, "batch_stats": statistics}


STATES = {"pytorch": pytorch_state(), "flax": flax_state(pytorch_state())}


def norm_of(library):
    return bnref.BatchNorm if library is bnref else library.layers.BatchNormalization


def layers_of(library, norms=None, **options):
    """The network's layers by name, in its order; ``options`` are the norms'."""
    made, norm = library.layers, norm_of(norms or library)
    options = {"epsilon": EPSILON, "momentum": 0.9, **options}
    return [
        made.Conv2D(4, 3, padding="same", name="conv"),
        norm(name="bn1", **options),
        made.ReLU(),
        made.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="deep"),
        norm(name="bn2", epsilon=EPSILON, momentum=0.9),
        made.ReLU(),
        made.Conv2DTranspose(2, (2, 3), name="up"),
        made.Flatten(),
        made.Dropout(0.5),
        made.Dense(7, name="fc"),
        norm(name="bn3", **options),
        made.ReLU(),
        made.Dense(3, name="head"),
    ]


def network(library=keras, **options):
    return library.Sequential([library.Input((5, 4, 3)), *layers_of(library, **options)])


def nested(library=keras, **options):
    layers = layers_of(library, **options)
    base = library.Sequential([library.Input((5, 4, 3)), *layers[:6]], name="base")
    x = inputs = library.Input((5, 4, 3))
    for layer in (base, *layers[6:]):
        x = layer(x)
    return library.Model(inputs, x)


def assert_predicts(model, expected):
    found = np.array(model(X.astype("float32"), training=False))
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())


# What is ported.


@FRAMEWORKS
@pytest.mark.parametrize("make", [network, nested])
@LIBRARIES
def test_a_ported_model_predicts_what_the_source_does(library, make, source):
    model = make(library)
    ported = port_model(model, STATES[source], source=source)
    assert_predicts(model, pytorch_network(STATES["pytorch"], X))
    assert len(ported.matched) == 8
    base = "base/" if make is nested else ""
    last = {"pytorch": ("features.1", "bn"), "flax": ("BatchNorm_0", "BatchNorm_2")}[source]
    assert [ported.matched[name] for name in last] == [f"{base}bn1", "bn3"]
    momentum = {"pytorch": 0.9, "flax": 0.99}[source]
    assert ported.arguments == {"momentum": momentum, "epsilon": 1e-5}
    assert bool(ported.differing) == (source == "flax"), "its momentum is another"


def test_norms_of_the_package_are_ported_too():
    model = network(norms=bnref)
    port_model(model, STATES["pytorch"], source="pytorch")
    assert_predicts(model, pytorch_network(STATES["pytorch"], X))


def test_a_subclassed_model_is_ported_by_the_order_in_which_it_made_its_layers():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = layers_of(keras)

        def call(self, x):
            for each in self.parts:
                x = each(x)
            return x

    model = Net()
    model(X)
    port_model(model, STATES["flax"], source="flax")
    assert_predicts(model, pytorch_network(STATES["pytorch"], X))


@LIBRARIES
def test_a_norm_of_what_was_flattened_has_its_channels_in_keras_order(library):
    """PyTorch flattens (C, H, W), Keras (H, W, C); the dense layer after the norm knows it too."""
    random, made = np.random.default_rng(6), library.layers
    mean, variance = random.normal(size=60), random.uniform(0.5, 2, 60)
    state = {"bn.weight": random.normal(size=60), "bn.bias": random.normal(size=60)}
    state |= {"bn.running_mean": mean, "bn.running_var": variance}
    # The second one has as many inputs, which are none of the image's.
    state |= {"fc.weight": random.normal(size=(60, 60)), "fc.bias": random.normal(size=60)}
    state |= {"head.weight": random.normal(size=(2, 60)), "head.bias": random.normal(size=2)}
    layers = [made.Flatten(), made.BatchNormalization(epsilon=EPSILON, name="bn"), made.ReLU()]
    layers += [made.Dense(60, name="fc"), made.Dense(2, name="head")]
    model = library.Sequential([library.Input((5, 4, 3)), *layers])
    port_model(model, state, source="pytorch")
    flat = X.transpose(0, 3, 1, 2).reshape(len(X), -1)
    hidden = np.maximum(normalized(flat, state, "bn"), 0)
    hidden = hidden @ state["fc.weight"].T + state["fc.bias"]
    assert_predicts(model, hidden @ state["head.weight"].T + state["head.bias"])
    for name, value in export_model(model, target="pytorch").items():
        np.testing.assert_array_equal(value, state[name].astype("float32"), err_msg=name)


def test_what_was_reshaped_since_it_was_flattened_keeps_its_order():
    layers = [keras.layers.Flatten(), keras.layers.Reshape((20, 3))]
    norm = keras.layers.BatchNormalization(epsilon=EPSILON)
    model = keras.Sequential([keras.Input((5, 4, 3)), *layers, norm])
    state = {"n.running_mean": np.arange(3.0), "n.running_var": np.arange(1, 4.0)}
    port_model(model, {**state, "n.weight": np.ones(3), "n.bias": np.zeros(3)}, source="pytorch")
    np.testing.assert_array_equal(norm.moving_mean, np.arange(3))


def test_the_variance_makes_up_for_another_epsilon_and_what_differs_is_said():
    model = network(epsilon=1e-3, momentum=0.8)
    ported = port_model(model, STATES["pytorch"], source="pytorch", momentum=0.25)
    assert_predicts(model, pytorch_network(STATES["pytorch"], X))
    wanted = STATES["pytorch"]["bn.running_var"] + 1e-5 - 1e-3
    np.testing.assert_allclose(model.get_layer("bn3").moving_variance, wanted, rtol=1e-6)
    assert ported.arguments == {"momentum": 0.75, "epsilon": 1e-5}
    own = {"momentum": 0.8, "epsilon": 1e-3}
    second = {"momentum": 0.9, "epsilon": 1e-5}
    assert ported.differing == {"bn1": own, "bn2": second, "bn3": own}


def test_the_sources_epsilon_is_what_it_is_said_to_be():
    state = {key: value for key, value in STATES["pytorch"].items() if "bn" in key}
    model = keras.Sequential([keras.Input((7,)), keras.layers.BatchNormalization(epsilon=1e-3)])
    port_model(model, state, source="pytorch", epsilon=0.01)
    x = X.reshape(-1, 60)[:, :7]
    found = np.array(model(x.astype("float32")))
    np.testing.assert_allclose(found, normalized(x, state, "bn", 0.01), rtol=1e-4, atol=1e-4)


class Tensor:
    """What a tensor of another framework is to this one: something that becomes an array."""

    def __init__(self, value):
        self.value, self.shape, self.ndim = value, value.shape, value.ndim

    def __array__(self, dtype=None, copy=None):
        return self.value


def test_tensors_are_taken_as_well_as_arrays():
    model = network()
    tensors = {key: Tensor(np.asarray(value)) for key, value in STATES["pytorch"].items()}
    port_model(model, tensors, source="pytorch")
    assert_predicts(model, pytorch_network(STATES["pytorch"], X))


@FRAMEWORKS
def test_norms_alone_are_ported_whatever_else_there_is(source):
    layers = [keras.layers.LayerNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([network(), *layers])
    model(X)
    others = [each for each in model.weights if "bn" not in each.path]
    before = [np.array(each) for each in others]
    ported = port_model(model, STATES[source], source=source, layers="norms")
    assert list(ported.matched.values()) == ["sequential/bn1", "sequential/bn2", "sequential/bn3"]
    bn = model.layers[0].get_layer("bn3")
    np.testing.assert_allclose(bn.moving_mean, STATES["pytorch"]["bn.running_mean"], rtol=1e-6)
    for each, old in zip(others, before, strict=True):
        np.testing.assert_array_equal(each, old)


@RENORM
def test_a_renormalizing_layer_of_keras_goes_on_from_what_was_ported():
    layer = keras.layers.BatchNormalization(renorm=True, epsilon=EPSILON)
    state = {key: value for key, value in STATES["pytorch"].items() if "bn" in key}
    port_model(keras.Sequential([keras.Input((7,)), layer]), state, source="pytorch")
    wanted = np.sqrt(state["bn.running_var"] + EPSILON)
    np.testing.assert_allclose(layer.moving_stddev, wanted, rtol=1e-6)


def without(state, *names):
    return {key: value for key, value in state.items() if key not in names}


NORM = {key: value for key, value in STATES["pytorch"].items() if key.startswith("bn.")}


def one_norm(**options):
    layer = keras.layers.BatchNormalization(name="bn", **{"epsilon": EPSILON, **options})
    return keras.Sequential([keras.Input((7,)), layer])


def test_gamma_and_beta_may_be_missing_on_both_sides():
    model = one_norm(center=False, scale=False)
    port_model(model, without(NORM, "bn.weight", "bn.bias"), source="pytorch")
    neutral = {**NORM, "bn.weight": np.ones(7), "bn.bias": np.zeros(7)}
    port_model(model, neutral, source="pytorch")
    x = np.linspace(-3, 3, 28).reshape(4, 7)
    found = np.array(model(x.astype("float32")))
    np.testing.assert_allclose(found, normalized(x, neutral, "bn"), rtol=1e-4, atol=1e-5)


# Names, where order does not do.


def residual(**options):
    """Two branches of one shape, one with more layers than the other, that are added."""
    made = keras.layers
    inputs = keras.Input((4,))
    short = made.BatchNormalization(name="short", **options)(made.Dense(3, name="d1")(inputs))
    long = made.Dense(3, name="d2")(inputs)
    long = made.BatchNormalization(name="long", **options)(long)
    return keras.Model(inputs, made.Add()([made.Dense(3, name="d3")(long), short]))


def residual_state():
    random = np.random.default_rng(4)
    state = {}
    for name in ("a", "b"):
        mean, variance = random.normal(size=3), random.uniform(1, 2, 3)
        state |= {f"{name}.running_mean": mean, f"{name}.running_var": variance}
        state |= {f"{name}.weight": random.normal(size=3), f"{name}.bias": random.normal(size=3)}
    return state


def test_branches_of_one_shape_are_not_told_apart_by_order():
    model = residual()
    before = values(model)
    message = "order cannot tell '(short|long)' from '(short|long)', which stand side by side"
    with pytest.raises(ValueError, match=message) as error:
        port_model(model, residual_state(), source="pytorch", layers="norms")
    assert "a (3,)" in str(error.value)
    assert "long (3,)" in str(error.value)
    assert_same_values(model, before)


@pytest.mark.parametrize("names", [{"a": "long"}, {"b": "short"}, {"a": "long", "b": "short"}])
def test_names_tell_branches_apart_and_the_rest_goes_by_order(names):
    model, state = residual(), residual_state()
    ported = port_model(model, state, source="pytorch", layers="norms", names=names)
    assert ported.matched == {"a": "long", "b": "short"}
    long = model.get_layer("long")
    np.testing.assert_array_equal(long.moving_mean, state["a.running_mean"].astype("float32"))


def test_a_module_may_be_left_out():
    state = {**NORM, "head.weight": np.ones((9, 9)), "token": np.ones(4)}
    ported = port_model(one_norm(), state, source="pytorch", names={"head": None, "": None})
    assert ported.matched == {"bn": "bn"}


def stacked(sizes=(3, 3)):
    layers = [keras.layers.BatchNormalization(name=f"n{i}") for i, _ in enumerate(sizes)]
    return keras.Sequential([keras.Input((sizes[0],)), *layers])


def flax_norms(**means):
    def tree(value):
        if isinstance(value, dict):
            return {name: tree(each) for name, each in value.items()}
        return {"mean": np.full(3, float(value)), "var": np.ones(3)}

    def affine(value):
        if isinstance(value, dict):
            return {name: affine(each) for name, each in value.items()}
        return {"scale": np.ones(3), "bias": np.zeros(3)}

    return {"params": affine(means), "batch_stats": tree(means)}


def means(model):
    return [float(layer.moving_mean[0]) for layer in model.layers]


def test_what_jax_sorted_as_text_is_counted_again():
    sorted_names = sorted(f"BatchNorm_{i}" for i in range(12))
    assert sorted_names[2] == "BatchNorm_10"
    model = stacked([3] * 12)
    state = flax_norms(**{name: int(name.split("_")[1]) for name in sorted_names})
    port_model(model, state, source="flax")
    assert means(model) == list(range(12))


def test_what_jax_sorted_as_text_is_not_told_apart_by_order():
    """The block may stand before the norm, between norms or after it."""
    model, state = stacked(), flax_norms(BatchNorm_0=0, Block_0={"BatchNorm_0": 1})
    with pytest.raises(ValueError, match="'BatchNorm_0' from 'Block_0/BatchNorm_0', which JAX"):
        port_model(model, state, source="flax")
    names = {"BatchNorm_0": "n1", "Block_0/BatchNorm_0": "n0"}
    port_model(model, state, source="flax", names=names)
    assert means(model) == [1, 0]


def test_a_tree_in_another_order_than_that_of_text_is_taken_as_it_is():
    model, state = stacked(), flax_norms(Block_0={"BatchNorm_0": 1}, BatchNorm_0=0)
    port_model(model, state, source="flax")
    assert means(model) == [1, 0]


# The other way.


@FRAMEWORKS
@LIBRARIES
@pytest.mark.parametrize("make", [network, nested])
def test_there_and_back_every_weight_is_the_same_to_the_bit(make, library, source):
    one, other = make(library), make(library)
    random = np.random.default_rng(1)
    for each in one.weights:
        each.assign(random.uniform(0.5, 2, each.shape))
    port_model(other, export_model(one, target=source), source=source)
    for actual, expected in zip(other.weights, one.weights, strict=True):
        np.testing.assert_array_equal(np.array(actual), np.array(expected))


def test_what_is_exported_for_pytorch_is_what_was_ported():
    model = network()
    ported = port_model(model, STATES["pytorch"], source="pytorch")
    found = export_model(model, target="pytorch", names=ported.matched)
    wanted = {k: v for k, v in STATES["pytorch"].items() if "num_batches" not in k}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value.astype("float32"), err_msg=name)
        assert found[name].flags.c_contiguous


def test_what_is_exported_for_flax_is_what_was_ported():
    model, state = network(), STATES["flax"]
    ported = port_model(model, state, source="flax")
    found = export_model(model, target="flax", names=ported.matched)
    assert found.keys() == state.keys()
    for collection, modules in state.items():
        assert found[collection].keys() == modules.keys()
        for name, own in modules.items():
            assert found[collection][name].keys() == own.keys()
            for each, value in own.items():
                np.testing.assert_array_equal(
                    found[collection][name][each], value.astype("float32"), err_msg=name + each
                )


def test_what_is_not_named_has_its_path():
    found = export_model(nested(), target="pytorch", layers="norms")
    norms = ("base.bn1", "base.bn2", "bn3")
    names = ("weight", "bias", "running_mean", "running_var")
    assert list(found) == [f"{norm}.{name}" for norm in norms for name in names]
    tree = export_model(nested(), target="flax", layers="norms")
    assert list(tree["batch_stats"]["base"]) == ["bn1", "bn2"]
    assert list(tree["params"]["bn3"]) == ["scale", "bias"]


def test_a_layer_alone_is_exported_without_a_prefix_where_its_name_is_empty():
    found = export_model(one_norm(), target="pytorch", names={"": "bn"})
    assert list(found) == ["weight", "bias", "running_mean", "running_var"]
    assert port_model(one_norm(), found, source="pytorch").matched == {"": "bn"}


def test_pytorch_is_given_both_of_gamma_and_beta_or_none_and_flax_what_there_is():
    bare, centred = one_norm(center=False, scale=False), one_norm(scale=False)
    assert list(export_model(bare, target="pytorch")) == ["bn.running_mean", "bn.running_var"]
    np.testing.assert_array_equal(export_model(centred, target="pytorch")["bn.weight"], np.ones(7))
    assert list(export_model(centred, target="flax")["params"]["bn"]) == ["bias"]


def test_the_variance_makes_up_for_the_targets_epsilon():
    model = one_norm(epsilon=1e-3)
    found = export_model(model, target="pytorch", epsilon=1e-5)["bn.running_var"]
    np.testing.assert_allclose(found, 1 + 1e-3 - 1e-5, rtol=1e-6)
    with pytest.raises(ValueError, match="layer 'bn' cannot be exported: target_epsilon must be"):
        export_model(model, target="pytorch", epsilon=2.0)


# What is refused, with the model as it was.


def changed(name, change):
    return {**NORM, name: change(np.array(NORM[name], float))}


def first_is(value):
    def change(array):
        array.flat[0] = value
        return array

    return change


def replaced(state, **new):
    return {**state, **{name.replace("__", "."): value for name, value in new.items()}}


WHOLE = STATES["pytorch"]
REFUSED = {
    "a name is missing": (one_norm, without(NORM, "bn.running_var"),
                          "state must have running_var of 'bn'; it is missing"),
    "gamma is missing": (one_norm, without(NORM, "bn.weight"),
                         "state has no gamma of 'bn', which layer 'bn' has"),
    "a name is unknown": (one_norm, {**NORM, "bn.scale": np.ones(7)},
                          "'bn' has the names weight, .*; state has scale as well"),
    "gamma has no place": (lambda: one_norm(scale=False), NORM,
                           "layer 'bn' has no gamma, which 'bn' has"),
    "a norm too few": (one_norm, {"x.weight": np.ones((2, 2))},
                       "(?s)state and model must fit in order.*! -  +bn \\(7,\\)"),
    "a norm too many": (one_norm, {**NORM, **{f"b{k[2:]}": v for k, v in NORM.items()}},
                        "(?s)state and model must fit in order.*! b \\(7,\\)  +-"),
    "other channels": (one_norm, {k: v[:5] if v.ndim else v for k, v in NORM.items()},
                       "(?s)state and model must fit in order.*! bn \\(5,\\)  bn \\(7,\\)"),
    "shapes differ": (one_norm, changed("bn.bias", lambda a: a[:5]),
                      r"beta of 'bn' must have shape \(7,\) for layer 'bn'; received \(5,\)"),
    "NaN": (one_norm, changed("bn.running_mean", first_is(np.nan)),
            "mean of 'bn' must be finite; received nan"),
    "infinite": (one_norm, changed("bn.weight", first_is(np.inf)), "gamma of 'bn' must be finite"),
    "negative variance": (one_norm, changed("bn.running_var", first_is(-0.5)),
                          "variance of 'bn' must be finite and 0 or more; received -0.5"),
    "text": (one_norm, {**NORM, "bn.bias": ["a"] * 7}, "beta of 'bn' must be numbers"),
    "epsilon": (lambda: one_norm(epsilon=1e-3), changed("bn.running_var", first_is(1e-6)),
                "layer 'bn' must be made with epsilon=1e-05: it has 0.001, and a variance of 'bn', "
                "1e-06, is too small"),
    "a module is unknown": (one_norm, {**NORM, "ln.weight": np.ones(3)},
                            "no modules but norms, dense layers and convolutions; 'ln' has weight"),
    "the last kernel": (network, replaced(WHOLE, head__weight=np.ones((3, 8))),
                        "(?s)must fit in order.*! head \\(3, 8\\)  head \\(3, 7\\)"),
    "a kernel is infinite": (network, replaced(WHOLE, head__weight=np.full((3, 7), np.inf)),
                             "kernel of 'head' must be finite"),
    "a bias is missing": (network, without(WHOLE, "head.bias"),
                          "state has no bias of 'head', which layer 'head' has"),
    "a bias has no place": (network, {**WHOLE, "features.3.bias": np.ones(8)},
                            "layer 'deep' has no bias, which 'features.3' has"),
    "other weights": (lambda: keras.Sequential([one_norm(), keras.layers.LayerNormalization()]),
                      NORM, "model must have no weights but those .* found layer_normalization"),
    "not built": (lambda: keras.Sequential([keras.layers.BatchNormalization(name="bn")]), NORM,
                  "model must be built; 'bn' has no variables yet"),
    "domains": (lambda: keras.Sequential(
        [keras.Input((7,)), bnref.ExampleWeighingBatchNorm(example_weight=0.5, name="own")]), NORM,
        "norm 'own' has no counterpart"),
    "no state": (one_norm, {}, "state must be a mapping with weights; received dict"),
    "a list": (one_norm, [np.ones(7)], "state must be a mapping with weights; received list"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_the_model_stays_the_same_to_the_bit(case):
    make, state, message = REFUSED[case]
    model = make()
    if case == "other weights":
        model(np.ones((2, 7)))
    before = values(model)
    with pytest.raises(ValueError, match=message):
        port_model(model, state, source="pytorch")
    assert_same_values(model, before)


ARGUMENTS = {
    "source": ({"source": "torch"}, "source must be one of pytorch, flax; received 'torch'"),
    "layers": ({"layers": "norm"}, "layers must be 'all' or 'norms'; received 'norm'"),
    "epsilon": ({"epsilon": 0}, "epsilon must be a number above 0; received 0"),
    "momentum": ({"momentum": 2}, "momentum must be a number between 0 and 1; received 2"),
    "names": ({"names": ["bn"]}, "names must map modules to layers' paths; received list"),
    "a path": ({"names": {"bn": "norm"}}, "names: 'norm' is no layer to port; there are bn"),
    "a module": ({"names": {"norm": "bn"}}, "names: state has no module 'norm'; it has bn"),
    "twice": ({"names": {"bn": "bn", "b": "bn"}}, "names: 'bn' is given to 2 modules"),
    "nothing": ({"names": {"bn": None}}, "state and model must fit in order"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_unknown_arguments_are_refused_by_name(case):
    options, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        port_model(one_norm(), NORM, **{"source": "pytorch", **options})


def test_names_of_other_shapes_are_refused_with_both_sides():
    model = network()
    with pytest.raises(ValueError, match=r"names do not fit(.|\n)*! bn \(7,\)  +bn1 \(4,\)"):
        port_model(model, WHOLE, source="pytorch", names={"bn": "bn1"})


def test_models_and_states_without_anything_to_port_are_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="must have something to port; found nothing in either"):
        port_model(model, {"fc.weight": np.ones((2, 3))}, source="pytorch", layers="norms")


def test_a_tree_with_other_collections_is_refused():
    with pytest.raises(ValueError, match="collections params and batch_stats; received cache"):
        port_model(one_norm(), {**flax_norms(a=1), "cache": {}}, source="flax")


def test_two_layers_of_one_name_are_not_exported():
    with pytest.raises(ValueError, match="names: two layers would be called 'bn2'"):
        export_model(network(), target="pytorch", names={"bn2": "bn1"})
    with pytest.raises(ValueError, match="target must be one of pytorch, flax; received 'keras'"):
        export_model(network(), target="keras")


def test_a_ported_model_can_be_recomputed_on_its_own_data():
    model = network()
    port_model(model, STATES["pytorch"], source="pytorch")
    assert population.recompute(model, [X.astype("float32")]) == 3
