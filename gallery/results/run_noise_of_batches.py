"""Record whether the noise of small batches keeps a network from fitting its training images.

``python gallery/results/run_noise_of_batches.py``: three convolutions on 2,000 images of CIFAR-10
at half the resolution, 800 updates of 128 images by SGD with a momentum of 0.9, which is 51 passes:
enough to learn the images by heart. Only what normalizes differs. The 128 images of an update are
normalized in groups of 4 to 128, as they would be on 128/b replicas of b images
(``GhostBatchNorm``), or example by example (``GroupNormalization`` of 8 groups), where no other
image has a say; without dropout, and with 30 % of it before the last layer, the regularizer to
compare with. Two rates, five seeds.

Every 100 updates the loss and the accuracy are taken on the training images and on 2,000 others, in
inference mode, by a population that is recomputed on 1,920 of the training images by the batch:
what differs then is the weights, not how well a moving average follows. Stopped and started again,
it goes on where it was. ``--seeds N`` runs fewer or more.
"""

import argparse
from functools import cache, lru_cache, partial
from types import SimpleNamespace

import keras
import numpy as np

import bnref
from bnref import norms, population, training
from bnref_gallery import datasets, records
from bnref_gallery.restarts import restart

UPDATE, STEPS, EVERY = 128, 800, 100
GROUPS_OF = (4, 16, 128)
ARMS = [*(("batch", size) for size in GROUPS_OF), ("group", 1)]
DROPOUTS, RATES = (0.0, 0.3), (0.03, 0.1)
KEY = ("norm", "images", "dropout", "rate", "seed")
COLUMNS = (*KEY, "step", "loss", "accuracy", "test_loss", "test_accuracy")


@cache
def images():
    """The data, centred and scaled by the training images."""
    data = datasets.load("cifar10").take(train=2000, test=2000)
    small = [halved(x) for x in (data.x_train, data.x_test)]
    mean, deviation = small[0].mean((0, 1, 2)), small[0].std((0, 1, 2))
    scaled = [np.float32((x - mean) / deviation) for x in small]
    labels = {"y_train": data.y_train, "y_test": data.y_test}
    return SimpleNamespace(x_train=scaled[0], x_test=scaled[1], **labels, name=str(data))


def halved(x):
    """Images of half the height and width, each pixel the mean of four."""
    count, height, width, channels = x.shape
    return x.reshape(count, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def network(norm, size, dropout):
    """Three convolutions of 16, 32 and 64 filters, each normalized; the logits of ten classes."""
    layers = [keras.Input((16, 16, 3))]
    for filters in (16, 32, 64):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False))
        if norm == "batch":
            layers.append(bnref.GhostBatchNorm(groups=UPDATE // size))
        else:
            layers.append(keras.layers.GroupNormalization(8))
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dropout(dropout), keras.layers.Dense(10)]
    return keras.Sequential(layers)


@lru_cache(maxsize=1)
def run_of(norm, size, dropout):
    """What makes a network of the arm, and one with its traced step for all rates and seeds."""
    make = partial(network, norm, size, dropout)
    return make, training.Run(make(), keras.optimizers.SGD(0.1, momentum=0.9))


def curve(norm, size, dropout, rate, seed):
    """The rows of one run: after every 100 updates the losses and the accuracies."""
    data = images()
    make, run = run_of(norm, size, dropout)
    restart(run.model, run.optimizer, make, seed=seed)
    run.optimizer.learning_rate.assign(rate)
    rows = []
    for step in range(EVERY, STEPS + 1, EVERY):
        run.train(
            data.x_train, data.y_train, steps=EVERY, batch_size=UPDATE, seed=1000 * seed + step,
            every=EVERY,
        )  # fmt: skip
        if norms.find(run.model):
            population.recompute(run.model, np.split(data.x_train[: 15 * UPDATE], 15))
        loss, accuracy = run.evaluate(data.x_train, data.y_train)[:2]
        test_loss, test_accuracy = run.evaluate(data.x_test, data.y_test)[:2]
        figures = (loss, accuracy, test_loss, test_accuracy)
        rows.append((step, *(float(f"{each:.4g}") for each in figures)))
    return rows


def main(seeds):
    """Every run that is not on record; all seeds of an arm after another share a traced step."""
    record = records.Record(
        records.path_of("noise_of_batches.csv"), key=KEY, columns=COLUMNS,
        provenance={"data": images().name},
    )  # fmt: skip
    runs = [
        dict(zip(KEY, (norm, size, dropout, rate, seed), strict=True))
        for dropout in DROPOUTS
        for norm, size in ARMS
        for rate in RATES
        for seed in range(seeds)
    ]
    for arm in record.progress(runs):
        rows = curve(arm["norm"], arm["images"], arm["dropout"], arm["rate"], arm["seed"])
        names = COLUMNS[len(KEY) :]
        record.add([{**arm, **dict(zip(names, row, strict=True))} for row in rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    main(parser.parse_args().seeds)
