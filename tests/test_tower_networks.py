"""Tests of bnref_gallery.tower_networks: the network layer by layer, its losses, its accuracy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bnref.tf1 import METHODS, session, shared_memory, tensorflow_1
from bnref_gallery.tower_networks import Classifier, convolutions

v1 = tf.compat.v1


def values(opened):
    """Copies of all variables: what a session returns may be a variable's own memory."""
    return {each.op.name: np.array(opened.run(each)) for each in v1.global_variables()}


def small_network(x, training, norm=METHODS[2]):
    return convolutions(x, training, norm=norm, filters=(6, 6, 6, 6), units=12, classes=3)


def classifier(network=small_network, towers=1, rate=0.1):
    return Classifier(
        network,
        placement=shared_memory(towers),
        optimizer=v1.train.GradientDescentOptimizer(rate),
        image_shape=(8, 8, 3),
    )


def cross_entropy(logits, y):
    logits = np.float64(logits)
    shifted = logits - logits.max(1, keepdims=True)
    return np.mean(np.log(np.sum(np.exp(shifted), 1)) - shifted[np.arange(len(y)), y])


@pytest.fixture
def images(batch):
    """24 images of 3 classes, each brighter in a channel of its own."""
    y = np.arange(24) % 3
    return batch((24, 8, 8, 3)) / 4 + 3 * np.eye(3, dtype="float32")[y][:, None, None], y


def test_the_network_is_that_of_keras_layers_with_the_norm_after_every_convolution(batch):
    layers = keras.layers
    model = keras.Sequential([keras.Input((9, 13, 2))])
    for number, channels in enumerate((3, 5, 4, 2)):
        size, stride = (3, 1) if number else (4, 2)
        model.add(layers.Conv2D(channels, size, stride, "same"))
        model.add(layers.Rescaling(2, -0.5))
        model.add(layers.ReLU())
        if number in (1, 2):
            model.add(layers.MaxPooling2D(2, 2, "same"))
    for layer in (layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(7)):
        model.add(layer)
    x, weights = batch((4, 9, 13, 2)), [batch(each.shape) / 9 for each in model.weights]
    model.set_weights(weights)

    with tensorflow_1(), session(shared_memory(1)) as opened:
        training, given = tf.constant(True), []

        def norm(x, training):
            given.append(training)
            return 2 * x - 0.5

        logits = convolutions(
            tf.constant(x), training, norm=norm, filters=(3, 5, 4, 2), units=6, classes=7
        )
        opened.run(list(map(v1.assign, v1.trainable_variables(), weights)))
        actual = opened.run(logits)
        assert len(given) == 4 and all(each is training for each in given)
    expected = model(x).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("towers", [1, 2])
def test_losses_and_accuracy_are_those_of_the_logits_and_training_lowers_the_loss(
    graph, images, towers
):
    (x, y), logits = images, []

    def network(x, training):
        logits.append(small_network(x, training))
        return logits[-1]

    made = classifier(network, towers)
    with session(shared_memory(towers)) as opened:
        opened.run(v1.global_variables_initializer())
        feed = {made.x: x, made.y: y, made.training: True}
        shares = opened.run(logits, feed)
        expected = [cross_entropy(*pair) for pair in zip(shares, np.split(y, towers), strict=True)]
        np.testing.assert_allclose(opened.run(made.losses, feed), expected, rtol=1e-5)
        losses = [made.train(opened, x, y) for _ in range(25)]
        assert losses[0] == pytest.approx(np.mean(expected), rel=1e-5)
        assert losses[-1] < 0.7 * losses[0]

        before = values(opened)
        y = np.roll(y, 1) * (np.arange(24) < 12) + y * (np.arange(24) >= 12)  # some are wrong
        at_inference = np.concatenate(opened.run(logits, {made.x: x, made.training: False}))
        rightly = np.mean(np.argmax(at_inference, 1) == y)
        assert 0 < rightly < 1
        for size in (24, 10, 500):
            assert made.accuracy(opened, x, y, batch_size=size) == rightly
        np.testing.assert_equal(values(opened), before)


def test_a_batch_that_towers_cannot_share_is_refused_before_anything_runs(graph, images):
    made, (x, y) = classifier(towers=2), images
    no_session = None
    with pytest.raises(
        ValueError, match="a multiple of the number of towers, 2, above 0; received 5"
    ):
        made.train(no_session, x[:5], y[:5])
    for count, size, received in ((24, 3, 3), (11, 4, 3), (7, 500, 7), (0, 4, 0)):
        with pytest.raises(ValueError, match=f"towers, 2, above 0; received {received}"):
            made.accuracy(no_session, x[:count], y[:count], batch_size=size)


@pytest.mark.parametrize(
    "network, message",
    [
        (lambda x, training: x, r"network must return logits .*received \(None, 8, 8, 3\)"),
        (
            lambda x, training: small_network(x, training, norm=lambda x, training: x[:, 1:]),
            r"norm must return the shape of x, \(None, 4, 4, 6\); it returned \(None, 3, 4, 6\)",
        ),
    ],
)
def test_a_network_or_a_norm_that_returns_another_shape_is_refused(graph, network, message):
    with pytest.raises(ValueError, match=message):
        classifier(network)
