"""Tests of the conversions between frameworks, against each framework's own formulas in float64."""

import itertools

import keras
import numpy as np
import pytest

import bnref
from bnref.conventions import CONVENTIONS, convert_momentum, convert_variance, port

RANDOM = np.random.default_rng(2)
C = 5
X = RANDOM.normal(3, 2, (7, C)) * 10.0 ** np.arange(-2, 3)
NAMES = list(CONVENTIONS)
PAIRS = list(itertools.product(NAMES, NAMES))


def layer_of(name, *, epsilon, seed=0):
    """Weights as this framework would hold them, of channels of different scale."""
    random = np.random.default_rng(seed)
    gamma, beta, mean = random.normal(1, 0.5, C), random.normal(0, 1, C), random.normal(0, 3, C)
    variance = 10.0 ** np.arange(-3, 2)
    c = CONVENTIONS[name]
    weights = dict(zip(c.names, (gamma, beta, mean, variance), strict=True))
    if name == "lasagne":
        weights["inv_std"] = 1 / np.sqrt(variance + epsilon)
    if name == "caffe":
        weights |= {"mean": 7 * mean, "variance": 7 * variance, "scale_factor": np.array([7.0])}
    return weights


def inference(name, weights, epsilon, x):
    """What each framework computes from its weights at inference."""
    w = {key: np.asarray(value, float) for key, value in weights.items()}
    if name == "lasagne":
        return (x - w["mean"]) * (w["gamma"] * w["inv_std"]) + w["beta"]
    if name == "caffe":
        mean, variance = w["mean"] / w["scale_factor"], w["variance"] / w["scale_factor"]
        return w["gamma"] * (x - mean) / np.sqrt(variance + epsilon) + w["beta"]
    gamma, beta, mean, variance = (w[key] for key in CONVENTIONS[name].names)
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


@pytest.mark.parametrize("source, target", PAIRS)
def test_a_ported_layer_predicts_what_the_source_does(source, target):
    for epsilon, other in ((1e-3, None), (2e-5, None), (1e-3, 1e-4)):
        weights = layer_of(source, epsilon=epsilon)
        ported = port(weights, source=source, target=target, epsilon=epsilon, target_epsilon=other)
        new = CONVENTIONS[target]
        assert ported.arguments[new.epsilon_name] == (other or epsilon)
        expected = inference(source, weights, epsilon, X)
        found = inference(target, ported.weights, other or epsilon, X)
        assert np.all(np.abs(found - expected) <= 2e-5 * np.abs(expected).max(0))
        assert all(each.dtype == np.float32 for each in ported.weights.values())


@pytest.mark.parametrize("source, target", PAIRS)
def test_there_and_back_is_where_it_was(source, target):
    weights = layer_of(source, epsilon=1e-3)
    there = port(weights, source=source, target=target, momentum=0.3, epsilon=1e-3, count=64)
    momentum = there.arguments[CONVENTIONS[target].momentum_name]
    back = port(
        there.weights, source=target, target=source, momentum=momentum, epsilon=1e-3, count=64
    )
    assert back.arguments == {
        CONVENTIONS[source].momentum_name: pytest.approx(0.3),
        CONVENTIONS[source].epsilon_name: 1e-3,
    }
    factor = weights.pop("scale_factor", 1)
    for name, value in weights.items():
        scale = factor if name in ("mean", "variance") else 1
        np.testing.assert_allclose(back.weights[name], value / scale, rtol=1e-5)


def update(name, old, batch, number, count):
    """One step of each framework's moving variance, as its sources have it."""
    corrected = batch * count / (count - 1)
    if name in ("pytorch",):
        return (1 - number) * old + number * corrected
    if name in ("tf_keras fused",):
        return number * old + (1 - number) * corrected
    if name == "lasagne":
        return (1 - number) * old + number / np.sqrt(batch + 1e-3)
    if name == "caffe":  # the sum, of which the factor is 1 / (1 - number) after many steps
        return number * old + corrected
    return number * old + (1 - number) * batch


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("source", NAMES)
def test_both_go_on_to_the_same_variance(source, target):
    """A population at rest stays at rest in the other framework, with momentum and n converted."""
    n, batch = 16, 2.5

    def at_rest(name, number):
        value = 0.0
        for _ in range(4000):
            value = update(name, value, batch, number, n)
        return value

    there, here = CONVENTIONS[source], CONVENTIONS[target]
    number = 0.05 if there.momentum_weighs == "new" else 0.95
    weights = layer_of(source, epsilon=1e-3)
    weights[there.names[3]] = np.full(C, at_rest(source, number))
    if source == "caffe":
        weights["scale_factor"] = 1 / (1 - number)
    ported = port(weights, source=source, target=target, momentum=number, epsilon=1e-3, count=n)
    other = ported.arguments[here.momentum_name]
    expected = at_rest(target, other) * ((1 - other) if target == "caffe" else 1)
    np.testing.assert_allclose(ported.weights[here.names[3]], expected, rtol=1e-5)


def test_alpha_09_is_momentum_01_and_not_09():
    assert convert_momentum(0.9, source="lasagne", target="keras") == 0.1
    assert convert_momentum(0.1, source="pytorch", target="keras") == 0.9
    assert convert_momentum(0.9, source="flax", target="keras") == 0.9
    assert convert_momentum(0.25, source="pytorch", target="lasagne") == 0.25


def test_the_count_changes_the_variance_only_where_one_is_corrected():
    ours = {"epsilon": 1e-3, "count": 4}
    found = convert_variance([3.0], source="pytorch", target="keras", **ours)
    np.testing.assert_allclose(found, [3 * 3 / 4])
    found = convert_variance([3.0], source="keras", target="pytorch", **ours)
    np.testing.assert_allclose(found, [4.0])
    for source, target in (("pytorch", "caffe"), ("keras", "flax")):
        stored = {"scale_factor": 2.0} if source == "caffe" else {}
        found = convert_variance([3.0], source=source, target=target, **ours, **stored)
        np.testing.assert_allclose(found, [3.0])
    unchanged = convert_variance([3.0], source="pytorch", target="keras", epsilon=1e-3)
    np.testing.assert_allclose(unchanged, [3.0])


def test_the_ported_weights_fit_the_layers_of_keras_and_of_this_package():
    weights = layer_of("pytorch", epsilon=1e-5)
    expected = inference("pytorch", weights, 1e-5, X)
    ported = port(weights, source="pytorch", target="keras")
    assert ported.arguments == {"momentum": 0.9, "epsilon": 1e-5}
    for kind in (keras.layers.BatchNormalization, bnref.BatchNorm):
        layer = kind(**ported.arguments)
        layer.build((None, C))
        for name, value in ported.weights.items():
            getattr(layer, name).assign(value)
        found = layer(X.astype("f4"), training=False)
        assert np.all(np.abs(found - expected) <= 1e-4 * np.abs(expected).max(0))


def test_the_ported_weights_fit_the_layer_with_lasagnes_memory():
    weights = layer_of("lasagne", epsilon=1e-4)
    alpha = port(weights, source="lasagne", target="keras", momentum=0.9).arguments["momentum"]
    assert alpha == 0.1
    ported = port(weights, source="lasagne", target="keras")
    expected = inference("lasagne", weights, 1e-4, X)
    np.testing.assert_allclose(
        inference("keras", ported.weights, 1e-4, X), expected, rtol=1e-4, atol=1e-3
    )


def test_a_symbol_of_mxnet_with_fixed_gamma_is_ported_without_its_gamma():
    weights = layer_of("mxnet", epsilon=1e-3)
    expected = inference("mxnet", {**weights, "gamma": np.ones(C)}, 1e-3, X)  # fix_gamma=True
    del weights["gamma"]
    ported = port(weights, source="mxnet", target="keras")
    assert ported.arguments == {"momentum": 0.9, "epsilon": 1e-3}
    np.testing.assert_allclose(inference("keras", ported.weights, 1e-3, X), expected, rtol=1e-5)
    gluon = port(weights, source="mxnet", target="keras", epsilon=1e-5)
    assert gluon.arguments == {"momentum": 0.9, "epsilon": 1e-5}


def test_gamma_and_beta_may_be_missing():
    weights = layer_of("keras", epsilon=1e-3)
    without = {name: weights[name] for name in ("moving_mean", "moving_variance")}
    ported = port({**without, "gamma": None}, source="keras", target="flax").weights
    np.testing.assert_array_equal(ported["scale"], np.ones(C))
    np.testing.assert_array_equal(ported["bias"], np.zeros(C))


def changed(**new):
    return {**layer_of("keras", epsilon=1e-3), **new}


LASAGNE, CAFFE = layer_of("lasagne", epsilon=1e-4), layer_of("caffe", epsilon=1e-5)
REFUSED = {
    "momentum above 1": (lambda: convert_momentum(1.1, source="keras", target="flax"),
                         "momentum must be a number between 0 and 1; received 1.1"),
    "alpha below 0": (lambda: convert_momentum(-0.1, source="lasagne", target="keras"),
                      "alpha must be a number between 0 and 1; received -0.1"),
    "alpha nan": (lambda: convert_momentum(np.nan, source="lasagne", target="keras"), "alpha"),
    "momentum None": (lambda: convert_momentum(None, source="pytorch", target="keras"),
                      "momentum must be a number between 0 and 1; received None"),
    "momentum True": (lambda: convert_momentum(True, source="pytorch", target="keras"), "momentum"),
    "fraction": (lambda: port(CAFFE, source="caffe", target="keras", momentum=3),
                 "moving_average_fraction must be a number between 0 and 1; received 3"),
    "source": (lambda: convert_momentum(0.1, source="torch", target="keras"),
               "source is 'torch'; accepted are 'keras', 'tf_keras fused'"),
    "target": (lambda: convert_momentum(0.1, source="keras", target=None), "target is None"),
    "negative variance": (lambda: port(changed(moving_variance=np.array([1, 1, -0.5, 1, 1.0])),
                                       source="keras", target="flax"),
                          "moving_variance must be finite and 0 or more; received -0.5"),
    "nan mean": (lambda: port(changed(moving_mean=np.array([1, np.nan, 1, 1, 1.0])),
                              source="keras", target="flax"), "moving_mean must be finite"),
    "text": (lambda: port(changed(gamma=["a"] * C), source="keras", target="flax"),
             "gamma must be numbers"),
    "shapes": (lambda: port(changed(beta=np.zeros(4)), source="keras", target="flax"),
               r"weights must all have the same shape \(C,\); received gamma \(5,\), beta \(4,\)"),
    "two axes": (lambda: port({n: np.ones((1, 3)) for n in CONVENTIONS["keras"].names},
                              source="keras", target="flax"), r"weights must .* shape \(C,\)"),
    "missing": (lambda: port({"gamma": np.ones(2)}, source="keras", target="flax"),
                "weights of 'keras' must have moving_mean; it is missing"),
    "unknown": (lambda: port(changed(weight=np.ones(C)), source="keras", target="flax"),
                "weights of 'keras' have the names .*; received weight as well"),
    "inv_std too large": (lambda: port({**LASAGNE, "inv_std": np.full(C, 101.0)},
                                       source="lasagne", target="keras"),
                          "inv_std must be at most 100, .* received 101"),
    "inv_std zero": (lambda: port({**LASAGNE, "inv_std": np.zeros(C)},
                                  source="lasagne", target="keras"), "inv_std must be finite and"),
    "no factor": (lambda: port({n: CAFFE[n] for n in CONVENTIONS["caffe"].names},
                               source="caffe", target="keras"), "weights of 'caffe' must have sc"),
    "factor zero": (lambda: port({**CAFFE, "scale_factor": [0.0]}, source="caffe", target="keras"),
                    "scale_factor must be a number above 0; received 0.0"),
    "two factors": (lambda: port({**CAFFE, "scale_factor": [1.0, 2.0]}, source="caffe",
                                 target="keras"), "scale_factor must be one number; received 2"),
    "factor missing": (lambda: convert_variance([1.0], source="caffe", target="keras"),
                       "scale_factor must come with"),
    "epsilon": (lambda: port(changed(), source="keras", target="flax", epsilon=0),
                "epsilon must be a number above 0; received 0"),
    "target_epsilon": (lambda: port(changed(), source="keras", target="flax", target_epsilon=-1),
                       "target_epsilon must be a number above 0; received -1"),
    "epsilon too far": (lambda: port(changed(), source="keras", target="flax", target_epsilon=0.1),
                        "target_epsilon must be at most 0.002, where"),
    "count 1": (lambda: port(changed(), source="keras", target="pytorch", count=1),
                "count must be a whole number, at least 2; received 1"),
    "count unused": (lambda: port(changed(), source="keras", target="flax", count=0),
                     "count must be a whole number, at least 2; received 0"),
    "count half": (lambda: port(changed(), source="keras", target="pytorch", count=2.5), "count"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_values_are_refused_by_name(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
