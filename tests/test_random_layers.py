"""Tests of random layers on replicas: dropout and augmentation draw other numbers on each."""

import functools
import tempfile

import keras
import numpy as np
import pytest
from helpers import copies, result_in_new_process

from bnref import devices, training
from bnref.training import Checkpoints, Run

pytestmark = pytest.mark.slow
# All examples are alike, so that replicas that draw the same see the same.
X = np.tile(np.arange(16, dtype="float32").reshape(1, 4, 4, 1), (12, 1, 1, 1))
Y = np.zeros(12, int)
LAYERS = {
    "dropout": lambda: keras.layers.Dropout(0.5),
    "flip": lambda: keras.layers.RandomFlip(),
    "translation": lambda: keras.layers.RandomTranslation(0.5, 0.5),
    "noise": lambda: keras.layers.GaussianNoise(1.0),
}


class Seen(keras.layers.Layer):
    """Remembers what its replica saw last."""

    def build(self, shape):
        self.last = self.add_weight(
            shape=(6, 4, 4, 1), initializer="zeros", trainable=False, name="last"
        )

    def call(self, x, training=False):
        if training:
            self.last.assign(x)
        return x


def network(name):
    layers = [keras.Input((4, 4, 1)), LAYERS[name](), Seen(), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


def trained(name, steps, folder=None):
    """A run of two replicas after some steps."""
    keras.utils.set_random_seed(3)
    strategy = two_replicas()
    with strategy.scope():
        model, optimizer = network(name), keras.optimizers.Adam(0.01)
    run = Run(model, optimizer)
    checkpoints = None if folder is None else Checkpoints(folder, every=100)
    for number in steps:
        history = run.train(
            X, Y, steps=number, batch_size=12, every=1, checkpoints=checkpoints, progress=False
        )
    return run, history["loss"]


@functools.cache
def two_replicas():
    return training.strategy(2)


def of_two_replicas():
    """For each layer what the replicas saw, the states of seeds, and a run in parts."""
    devices.configure(cpus=2)
    found = {}
    for name in LAYERS:
        run, losses = trained(name, [6])
        again, same = trained(name, [6])
        with tempfile.TemporaryDirectory() as folder:
            trained(name, [3], folder)
            _, parts = trained(name, [6], folder)
        seeds = [v for v in run.model.variables if v.name == "seed_generator_state"]
        found[name] = {
            "seen": [copies(each.strategy, [each.model.layers[1].last]) for each in (run, again)],
            "losses": [losses, same, parts],
            "seeds": [copies(run.strategy, [each]) for each in seeds],
        }
    return found


@pytest.fixture(scope="module")
def found():
    return result_in_new_process(of_two_replicas)


NAMES = pytest.mark.parametrize("name", LAYERS)


@NAMES
def test_replicas_draw_numbers_of_their_own(found, name):
    one, other = found[name]["seen"][0]
    assert np.abs(one - other).max() > 0.1
    assert np.abs(one - X[:6]).max() > 0.1, "the layer did something"


@NAMES
def test_after_a_step_the_states_are_alike_so_that_one_checkpoint_holds_them(found, name):
    assert found[name]["seeds"]
    for one, other in found[name]["seeds"]:
        np.testing.assert_array_equal(one, other)


@NAMES
def test_the_same_seed_and_a_resumed_run_repeat_them_bit_for_bit(found, name):
    whole, again, resumed = found[name]["losses"]
    np.testing.assert_array_equal(whole, again)
    np.testing.assert_array_equal(whole, resumed)
    np.testing.assert_array_equal(*found[name]["seen"])
    assert len(set(found[name]["losses"][0][1:])) == 6, "each step draws anew"
