"""Tests of the doctor's look at a model that is saved and loaded again."""

import random
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_values, result_in_new_process, values

from bnref import devices, doctor
from bnref.doctor._saving import distance
from bnref_gallery.sick_models import FAULTS, _networks

pytestmark = pytest.mark.slow

CAUSE = "saved_model_differs"
SAVED = keras.saving.register_keras_serializable(package="bnref_tests")


def examined(model, data):
    """The evidence of what is found, and why nothing was decided; None where it was not so."""
    report = doctor.examine(model, data, only=[CAUSE])
    assert all(each.cause == CAUSE for each in report.findings)
    evidence = report.findings[0].evidence if report.findings else None
    return evidence, report.undecided.get(CAUSE)


def test_a_forgotten_epsilon_is_named_with_both_values_in_every_norm_that_has_it():
    (sick, data), (healthy, _) = FAULTS[CAUSE]()
    evidence, _ = examined(sick, data)
    assert "2 of 2 norms" in evidence and "ε is 0.001, not 0.05;" in evidence
    assert examined(healthy, data) == (None, None)


def test_what_is_not_among_a_norms_own_numbers_shows_in_the_outputs():
    (sick, data), (healthy, _) = FAULTS["counts_in_a_variable_that_is_not_saved"]()
    evidence, _ = examined(sick, data)
    assert "2 norms have the same" in evidence and "of their deviation" in evidence
    assert examined(healthy, data) == (None, None)


@SAVED
class Trembling(keras.layers.Layer):
    """Adds noise, at inference too, and never the same."""

    def call(self, x):
        return x + np.random.normal(size=x.shape[-1])


@SAVED
class ByItsSeed(keras.layers.Layer):
    """Adds noise, at inference too, from a state that is saved."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(7)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


@pytest.mark.parametrize("noise", [Trembling, ByItsSeed])
def test_a_model_that_differs_from_itself_is_not_accused(noise):
    inputs = keras.Input((8,))
    x = keras.layers.BatchNormalization()(inputs)
    model = keras.Sequential([keras.Model(inputs, x), noise()])
    evidence, _ = examined(model, _networks.classes()[0])
    assert evidence is None


def test_a_class_that_keras_cannot_find_is_told_in_a_sentence():
    class Mine(keras.layers.BatchNormalization):
        pass

    evidence, reason = examined(_networks.dense(Mine), _networks.classes())
    assert evidence is None
    assert reason == "the model cannot be loaded: Could not locate class 'Mine'"


def test_a_model_whose_save_fails_is_told_in_a_sentence():
    class Unsaved(keras.Sequential):
        def save(self, *arguments, **options):
            raise NotImplementedError("no file today. Ask again")

    model = Unsaved([keras.Input((8,)), keras.layers.BatchNormalization()])
    reason = "the model cannot be saved: no file today"
    assert examined(model, _networks.classes()[0]) == (None, reason)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_of_tf_keras_is_saved_by_tf_keras():
    import tf_keras

    layers = [tf_keras.Input((8,)), tf_keras.layers.Dense(4), tf_keras.layers.BatchNormalization()]
    model = tf_keras.Sequential(layers)
    assert examined(model, _networks.classes()[0]) == (None, None)


@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "DenseNet121"])
def test_a_published_model_comes_back_as_it_was(name):
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(32, 32, 3), classes=10)
    x = np.random.default_rng(0).normal(100, 50, size=(8, 32, 32, 3)).astype("float32")
    assert examined(model, x) == (None, None)


def test_saving_leaves_the_model_the_random_state_and_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (sick, data), _ = FAULTS[CAUSE]()
    before, optimizer = values(sick), sick.optimizer
    keras.utils.set_random_seed(3)
    expected = np.random.random(), random.random(), tf.random.uniform(()).numpy()
    keras.utils.set_random_seed(3)
    assert examined(sick, data)[0]
    now = np.random.random(), random.random(), tf.random.uniform(()).numpy()
    assert now == expected
    assert_same_values(sick, before)
    assert sick.optimizer is optimizer and sick.compiled
    assert list(tmp_path.iterdir()) == []


def test_replicas_that_differ_are_left_to_the_check_that_names_them():
    assert result_in_new_process(on_two_replicas) == [(None, None)] * 2


def on_two_replicas():
    devices.configure(cpus=2)
    keras.utils.set_random_seed(0)
    return [examined(model, data) for model, data in FAULTS["replicas_differ"]()]


def test_outputs_are_compared_in_deviations_all_of_them_and_where_they_are_numbers():
    y = np.array([[0.0, 2.0], [4.0, 6.0]])
    scale = y.std() + 6e-3
    assert distance(y, y) == 0
    np.testing.assert_allclose(distance([y, y], [y, y + [0, 0.5]]), 0.5 / scale, rtol=1e-6)
    assert distance(np.where(y > 5, np.nan, y), np.where(y > 5, np.nan, y)) == 0
    assert distance(y, np.where(y > 5, np.nan, y)) == distance(y, y[:1]) == np.inf
    assert distance(np.ones(3), np.ones(3) + 1e-7) < 1e-3, "rounding, where all are alike"
