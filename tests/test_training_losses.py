"""Tests of the losses of bnref.training: a softmax at the end, several outputs, what layers add."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import AVERAGED, batch_of

from bnref.training import Run, evaluate, train

pytestmark = pytest.mark.slow


class Subclassed(keras.Model):
    def __init__(self, activation):
        super().__init__()
        self.dense, self.activation = keras.layers.Dense(3), activation

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.activation(self.dense(x))


def ending_in(end):
    """A linear model with the same weights each time."""
    dense = keras.layers.Dense
    make = {
        "logits": lambda: keras.Sequential([dense(3)]),
        "sigmoid": lambda: keras.Sequential([dense(3, "sigmoid")]),
        "activation": lambda: keras.Sequential([dense(3, "softmax")]),
        "layer": lambda: keras.Sequential([dense(3), keras.layers.Softmax()]),
        "nested": lambda: keras.Sequential([keras.Sequential([dense(3, "softmax")])]),
        "subclassed": lambda: Subclassed(keras.activations.softmax),
        "TensorFlow's": lambda: Subclassed(tf.nn.softmax),
    }
    model = make[end]()
    model.build((None, 4))
    model.set_weights([batch_of((4, 3)) / 10, np.float32([0.1, -0.2, 0])])
    return model


@pytest.mark.parametrize("end", ["activation", "layer", "nested", "subclassed"])
def test_a_model_that_ends_in_softmax_trains_and_is_evaluated_as_its_logits(separable, end):
    x, y = separable
    runs = []
    for model in (ending_in("logits"), ending_in(end)):
        history = train(
            model, 100 * x, y, steps=20, batch_size=30, optimizer=keras.optimizers.SGD(0.01),
            every=1, measure=lambda run: dict(zip("la", run.evaluate(100 * x, y), strict=True)),
        )  # fmt: skip
        runs.append([*history["loss"][1:], *history["l"], *history["a"], *model.get_weights()[1]])
    np.testing.assert_allclose(*runs, rtol=1e-4, atol=1e-5)
    assert max(runs[0]) > 100, "where the probabilities have long been rounded to 0"


def test_a_perfect_classifier_that_ends_in_softmax_has_the_loss_0(separable):
    x, y = 1e3 * np.eye(3, dtype="float32")[separable[1]], separable[1]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    assert evaluate(model, x, y) == (0, 1)


def test_a_softmax_that_is_not_keras_own_is_taken_in_training_and_refused_in_evaluation(separable):
    """Without a graph its logits cannot be had."""
    x, y = separable
    runs = [train(ending_in(end), x, y, steps=3, batch_size=30, every=1)["loss"]
            for end in ("logits", "TensorFlow's")]  # fmt: skip
    np.testing.assert_allclose(*runs, rtol=1e-5)
    with pytest.raises(ValueError, match="model must give logits, or end in a softmax of Keras's"):
        evaluate(ending_in("TensorFlow's"), x, y)


def test_a_sigmoid_is_no_softmax(separable):
    x, y = separable
    model = ending_in("sigmoid")
    output = np.float64(model(x))
    losses = np.log(np.exp(output).sum(-1)) - output[np.arange(90), y]
    assert evaluate(model, x, y)[0] == pytest.approx(losses.mean(), rel=1e-5)


# What layers add to the loss, and several outputs.


@pytest.mark.parametrize("parts", [1, 3])
def test_what_an_older_keras_adds_up_over_the_examples_is_refused_in_parts(parts, monkeypatch):
    monkeypatch.setattr("bnref.training._added.AVERAGED_SINCE", (99, 0))
    dense = keras.layers.Dense(3, activity_regularizer="l2", name="dense")
    model = keras.Sequential([keras.Input((4,)), dense])
    said = "activity regularizer .* before Keras 99.0, .* received one in layer '.*dense'"
    with pytest.raises(ValueError, match=said) if parts > 1 else contextlib.nullcontext():
        Run(model, keras.optimizers.SGD(0.0), accumulate=parts)


@AVERAGED
def test_what_layers_add_counts_once_and_as_keras_has_it(separable):
    x, y = (each[:8] for each in separable)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activity_regularizer="l2")])
    logits = np.float64(model(x))
    plain = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(8), y])
    wanted = plain + 0.01 * np.square(logits).sum() / 8
    for accumulate in (1, 3):
        step = Run(model, keras.optimizers.SGD(0.0), accumulate=accumulate).step
        assert float(step(x, y)) == pytest.approx(wanted, rel=1e-5)
    assert "add_loss" not in vars(model.layers[0]), "the layer is as it was"


def two_outputs():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    return keras.Model(x, [keras.layers.Dense(3)(x), keras.layers.Dense(2)(x)])


def test_each_output_has_its_loss_and_its_target(separable):
    x, y = (each[:8] for each in separable)
    model, target = two_outputs(), x[:, :2]
    logits, other = (np.float64(each) for each in model(x))
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(8), y])
    wanted += 0.3 * np.mean(np.square(other - target))
    losses = [tf.nn.sparse_softmax_cross_entropy_with_logits, lambda y, o: 0.3 * (y - o) ** 2]
    step = Run(model, keras.optimizers.SGD(0.1), losses).step
    assert float(step(x, (y, target))) == pytest.approx(wanted, rel=1e-5)


def test_one_number_for_an_output_and_an_evaluation_of_several_are_refused(separable):
    x, y = (each[:8] for each in separable)
    model = two_outputs()
    losses = [lambda y, output: tf.reduce_mean(output), lambda y, output: output[:, 0]]
    step = Run(model, None, losses).step
    with pytest.raises(ValueError, match="loss must give one number an example for each output"):
        step(x, (y, y))
    with pytest.raises(ValueError, match="model must have one output to be evaluated without"):
        evaluate(model, x, y)
