"""Tests of what bnref.training is given: several inputs, and examples that are not finite."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_values, values

from bnref import BatchNorm
from bnref.training import Run, evaluate, shuffled_batches, train
from bnref_gallery.models import perceptron

pytestmark = pytest.mark.slow


def small_model():
    return perceptron(BatchNorm, inputs=(4,), units=(8,), outputs=3)


def two_inputs():
    keras.utils.set_random_seed(0)
    one, other = keras.Input((3,), name="one"), keras.Input((1,), name="other")
    merged = keras.layers.Concatenate()([one, other])
    return keras.Model({"one": one, "other": other}, keras.layers.Dense(3)(merged))


def joined():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_model_of_several_inputs_trains_as_one_that_is_given_them_joined(separable, accumulate):
    x, y = separable
    apart, runs = {"one": x[:, :3], "other": x[:, 3:]}, []
    for model, given in ((two_inputs(), apart), (joined(), x)):
        run = Run(model, keras.optimizers.SGD(0.01), accumulate=accumulate)
        first = float(run.step(tf.nest.map_structure(lambda each: each[:8], given), y[:8]))
        history = run.train(given, y, steps=5, batch_size=16, every=1)
        runs.append([first, *history["loss"][1:], *run.evaluate(given, y, batch_size=20)])
    np.testing.assert_allclose(*runs, rtol=1e-5)
    assert len(set(runs[0])) == 8


def test_inputs_and_targets_of_several_arrays_are_drawn_together():
    x = ({"a": np.arange(10)}, [10 * np.arange(10)])
    batches = shuffled_batches(x, np.arange(10), batch_size=4, seed=0)
    (first, (second,)), y = next(batches)
    np.testing.assert_array_equal(first["a"], y)
    np.testing.assert_array_equal(second, 10 * y)
    assert len(set(np.array(y))) == 4


def test_inputs_of_different_lengths_are_refused(separable):
    x, y = separable
    with pytest.raises(ValueError, match="x and y must be equally long; received 90, 80 and 90"):
        train(two_inputs(), {"one": x[:, :3], "other": x[:80, 3:]}, y, steps=1, batch_size=9)


# Examples that are not finite, looked at when they come.


class Decoded:
    """Examples that are read when they are asked for, such as a memory map's."""

    def __init__(self, x):
        self.x, self.shape, self.read = x, x.shape, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, chosen):
        found = self.x[chosen]
        self.read.append(len(found))
        return found


def test_no_more_examples_are_read_than_are_trained_on(separable):
    x, y = Decoded(separable[0]), separable[1]
    train(small_model(), x, y, steps=2, batch_size=8)
    assert set(x.read) == {8} and len(x.read) <= 4, "two batches, and what is drawn ahead"


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_example_that_is_not_finite_is_named_with_its_batch_before_its_step(separable, value):
    model, (x, y) = small_model(), separable
    batches = shuffled_batches(np.arange(90), y, batch_size=16, seed=0)
    third = int([next(batches)[0] for _ in range(3)][2][5])
    x[third, 1] = value
    said = f"x must be finite; received 1 values that are not, in batch 3, first in example {third}"
    measured = []
    with pytest.raises(ValueError, match=re.escape(said)):
        train(
            model, x, y, steps=5, batch_size=16, every=1,
            measure=lambda run: measured.append(values(run.model)) or {},
        )  # fmt: skip
    assert len(measured) == 3, "before the first step, and after the first two"
    assert_same_values(model, measured[-1])


def test_an_evaluation_names_the_batch_that_is_not_finite(separable):
    x, y = separable
    x[70] = np.nan
    said = "x must be finite; received 4 values that are not, in batch 3, first in example 70 "
    with pytest.raises(ValueError, match=re.escape(said)):
        evaluate(small_model(), x, y, batch_size=30)


def test_numbers_without_a_point_are_not_looked_at(separable):
    x, y = separable
    history = train(small_model(), x.astype("int32"), y, steps=1, batch_size=90)
    assert np.isfinite(history["loss"][1])
