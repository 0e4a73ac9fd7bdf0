"""Record the post "with and without" at its full size.

``python gallery/results/run_with_and_without.py``: five arms, five seeds, 800 batches of 64, Adam
0.002; loss and accuracy every 10 batches on 2,000 test images. About 45 minutes on two cores. Then
the repaired code with one fault of the post's at a time, 200 batches. Stopped and started again, it
goes on where it was. ``--seeds N`` runs fewer or more.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

import bnref
from bnref import training
from bnref_gallery import datasets, models, records

COLUMNS = ("arm", "seed", "step", "loss", "accuracy", "batch_loss", "batch_accuracy")


@keras.saving.register_keras_serializable()
class NeverRemembered(bnref.BatchNorm):
    """The post's ``batch_norm_conv``: the population is never assigned and stays at 0 and 1."""

    def update_population(self, moments):
        """Remembered how? Never."""


@keras.saving.register_keras_serializable()
class AlwaysBatch(bnref.BatchNorm):
    """The post's ``batch_norm_full``: the batch normalizes itself at inference too."""

    def inference_moments(self, x):
        """Used when? At inference the batch's, too."""
        return self.batch_moments(x)


def sigmoid_loss(y, logits):
    """The post's loss: ten yes-or-no questions."""
    labels = tf.one_hot(y, logits.shape[-1])
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), -1)


def softmax_loss(y, logits):
    """One question with ten answers."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)


def in_turn(norms):
    """A function that makes the norm of one place after the other."""
    places = iter(norms)
    return lambda: next(places)()


@dataclass
class Arm:
    """What one training differs in from the repaired code without batch norm."""

    norms: Callable | list | None = None  # a list: one for each place, as the post has them
    on_logits: bool = False
    loss: Callable = softmax_loss
    dropout: bool = False  # left on in the test
    steps: int = 800

    def build(self):
        norms = in_turn(self.norms) if isinstance(self.norms, list) else self.norms
        return models.two_convolutions(norms, norm_on_logits=self.on_logits)


POSTED = {"loss": sigmoid_loss, "dropout": True}
ARMS = {
    "without": Arm(),
    "with": Arm(bnref.BatchNorm),
    "with, debiased": Arm(bnref.DebiasedBatchNorm),
    "posted without": Arm(**POSTED),
    "posted with": Arm([NeverRemembered, AlwaysBatch, AlwaysBatch], on_logits=True, **POSTED),
    # One fault at a time.
    "without, sigmoid loss": Arm(loss=sigmoid_loss, steps=200),
    "without, dropout in the test": Arm(dropout=True, steps=200),
    "with, sigmoid loss": Arm(bnref.BatchNorm, loss=sigmoid_loss, steps=200),
    "with, dropout in the test": Arm(bnref.BatchNorm, dropout=True, steps=200),
    "with, norm on the logits": Arm(bnref.BatchNorm, on_logits=True, steps=200),
}


def forward(model, x, *, dropout, norm):
    """The outputs with dropout and batch statistics each switched on or off; nothing is updated."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            x = layer(x, training=dropout)
        elif isinstance(layer, bnref.BatchNorm) and norm:
            moments = layer.batch_moments(x)
            x = bnref.functional.normalize(
                x, moments, layer.gamma.value, layer.beta.value, epsilon=layer.epsilon
            )
        else:
            x = layer(x, training=False)
    return x


def run(name, seed, data):
    """Train one arm from one seed; rows of what was measured."""
    arm = ARMS[name]
    x, y = tf.constant(data.x_test), data.y_test

    def scores(logits):
        hits = tf.cast(tf.argmax(logits, -1) == y, tf.float32)
        return float(tf.reduce_mean(arm.loss(y, logits))), float(tf.reduce_mean(hits))

    def measure(run):
        model = run.model
        inference = scores(forward(model, x, dropout=arm.dropout, norm=False))
        batch = scores(forward(model, x, dropout=arm.dropout, norm=True))
        names = ("loss", "accuracy", "batch_loss", "batch_accuracy")
        return dict(zip([f"test_{name}" for name in names], inference + batch, strict=True))

    keras.utils.set_random_seed(seed)
    history = training.train(
        arm.build(), data.x_train, data.y_train, steps=arm.steps, batch_size=64, loss=arm.loss,
        optimizer=keras.optimizers.Adam(0.002), seed=seed, measure=measure, every=10,
        progress=False,
    )  # fmt: skip
    values = zip(history["step"], *(history[f"test_{name}"] for name in COLUMNS[3:]), strict=True)
    return [
        dict(zip(COLUMNS, (name, seed, int(step), *(round(float(v), 5) for v in row)), strict=True))
        for step, *row in values
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    data = datasets.load("mnist")
    data = data.take(train=len(data.x_train), test=min(2000, len(data.x_test)))
    record = records.Record(
        records.path_of("with_and_without.csv"), key=("arm", "seed"), columns=COLUMNS,
        provenance={"data": str(data)},
    )  # fmt: skip
    for one in record.progress([{"arm": arm, "seed": seed} for seed in seeds for arm in ARMS]):
        record.add(run(one["arm"], one["seed"], data))
