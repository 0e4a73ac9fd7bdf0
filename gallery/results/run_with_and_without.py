"""Record the post "with and without" at its full size.

``python gallery/results/run_with_and_without.py``: five arms, five seeds, 800 batches of 64, Adam
0.002; loss and accuracy every 10 batches on 2,000 test images. About 45 minutes on two cores;
stopped and started again, it goes on where it was. ``--seeds N`` runs fewer or more.
"""

import argparse

import keras
import tensorflow as tf

import bnref
from bnref import training
from bnref_gallery import datasets, models, records

NORMS = {"without": None, "with": bnref.BatchNorm, "with, debiased": bnref.DebiasedBatchNorm}
ARMS = (*NORMS, "posted without", "posted with")
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


def build(arm):
    """The network of an arm; in the post each place has a function of its own."""
    if arm == "posted with":
        places = iter([NeverRemembered, AlwaysBatch, AlwaysBatch])
        return models.two_convolutions(lambda: next(places)(), norm_on_logits=True)
    return models.two_convolutions(NORMS.get(arm))


def sigmoid_loss(y, logits):
    """The post's loss: ten yes-or-no questions."""
    labels = tf.one_hot(y, logits.shape[-1])
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), -1)


def softmax_loss(y, logits):
    """One question with ten answers."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)


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


def run(arm, seed, data, steps=800):
    """Train one arm from one seed; rows of what was measured."""
    posted = arm.startswith("posted")
    loss = sigmoid_loss if posted else softmax_loss
    x, y = tf.constant(data.x_test), data.y_test

    def scores(logits):
        hits = tf.cast(tf.argmax(logits, -1) == y, tf.float32)
        return float(tf.reduce_mean(loss(y, logits))), float(tf.reduce_mean(hits))

    def measure(run):
        model = run.model
        inference = scores(forward(model, x, dropout=posted, norm=False))
        batch = scores(forward(model, x, dropout=posted, norm=True))
        names = ("loss", "accuracy", "batch_loss", "batch_accuracy")
        return dict(zip([f"test_{name}" for name in names], inference + batch, strict=True))

    keras.utils.set_random_seed(seed)
    history = training.train(
        build(arm), data.x_train, data.y_train, steps=steps, batch_size=64, loss=loss, seed=seed,
        optimizer=keras.optimizers.Adam(0.002), measure=measure, every=10, progress=False,
    )  # fmt: skip
    values = zip(history["step"], *(history[f"test_{name}"] for name in COLUMNS[3:]), strict=True)
    return [
        dict(zip(COLUMNS, (arm, seed, int(step), *(round(float(v), 5) for v in row)), strict=True))
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
