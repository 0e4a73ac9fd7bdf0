"""Tests of bnref_gallery.federated: each client trains on its own examples."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import bnref
from bnref import training
from bnref_gallery.federated import Clients

RANDOM = np.random.default_rng(0)
DATA = SimpleNamespace(
    x_train=RANDOM.uniform(0, 1, (64, 5)).astype("float32"), y_train=RANDOM.integers(0, 3, 64),
    x_test=RANDOM.uniform(0, 1, (40, 5)).astype("float32"), y_test=RANDOM.integers(0, 3, 40),
)  # fmt: skip
FOGS = (0.0, 0.5)


@pytest.fixture
def clients():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((5,)), bnref.BatchNorm(momentum=0.5), keras.layers.Dense(3)]
    run = training.Run(keras.Sequential(layers), keras.optimizers.SGD(0.1))
    return Clients(run, DATA, fogs=FOGS, steps=3, batch_size=8)


def by_hand(clients, sent, k, seed):
    """Client k's variables after three steps on its own examples."""
    fog, run = np.float32(FOGS[k]), clients.run
    x, y = fog + (1 - fog) * DATA.x_train[k::2], DATA.y_train[k::2]
    batches = training.shuffled_batches(x, y, batch_size=8, seed=seed)
    run.model.set_weights(sent)
    for _ in range(3):
        run.step(*next(batches))
    return run.model.get_weights()


def test_a_round_is_the_training_of_each_client_from_what_it_was_sent(clients):
    sent = [clients.run.model.get_weights() for _ in FOGS]
    sent[1] = [2 * each for each in sent[1]]
    clients.begin(7)
    ended = clients.train(sent)
    for k, found in enumerate(ended):
        for value, expected in zip(found, by_hand(clients, sent[k], k, 7), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_the_statistics_of_a_client_come_near_those_of_its_own_images(clients):
    sent = [clients.run.model.get_weights()] * 2
    for _ in range(5):
        sent = clients.train(sent)
    for weights, x in zip(sent, clients.images, strict=True):
        np.testing.assert_allclose(weights[2], x.mean(0), atol=0.12)


def test_accuracy_is_the_mean_over_the_clients_each_by_its_own_variables(clients):
    one = clients.run.model.get_weights()
    other = [np.flip(each, -1) for each in one]
    alone = []
    for k, weights in enumerate((one, other)):
        clients.run.model.set_weights(weights)
        alone.append(clients.run.evaluate(FOGS[k] + (1 - FOGS[k]) * DATA.x_test, DATA.y_test)[1])
    assert clients.accuracy([one, other]) == pytest.approx(np.mean(alone))
    assert alone[0] != alone[1]


@pytest.mark.parametrize("fogs", [(0.5,), (0.0, 1.0), (-0.1, 0.0)])
def test_a_fog_that_is_none_is_named(clients, fogs):
    with pytest.raises(ValueError, match="fogs must be"):
        Clients(clients.run, DATA, fogs=fogs)
