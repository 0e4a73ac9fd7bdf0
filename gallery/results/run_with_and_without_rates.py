"""Record what batch norm buys in the post "with and without": at which learning rates both learn.

``python gallery/results/run_with_and_without_rates.py``: the post's network, narrower (8 and 16
filters, 64 units, dropout 0.5), on all of MNIST at 14 × 14 pixels; 200 batches of 64, with batch
norm and without, by SGD and by Adam at eight rates each, three seeds; loss and accuracy before and
after, on 2,000 test images, by a population that is recomputed from 20 batches. About five minutes
on two cores; stopped and started again, it goes on where it was. ``--seeds N`` runs fewer or more.
"""

import argparse
from dataclasses import replace
from functools import cache, partial

import keras
import numpy as np

import bnref
from bnref import training
from bnref_gallery import datasets, models, records
from bnref_gallery.restarts import restart

STEPS = 200
NORMS = {"without": None, "with": bnref.BatchNorm}
RATES = {
    "SGD": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "Adam": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
}
OPTIMIZERS = {"SGD": keras.optimizers.SGD, "Adam": keras.optimizers.Adam}
KEY = ("optimizer", "norm", "rate", "seed")
COLUMNS = (*KEY, "step", "loss", "accuracy")
network = partial(
    models.two_convolutions, image_shape=(14, 14, 1), filters=(8, 16), units=64, dropout=0.5
)


@cache
def prepared(optimizer, norm):
    """A run of this optimizer and this network, traced once for all rates and seeds."""
    return training.Run(network(NORMS[norm]), OPTIMIZERS[optimizer](0.1))


def measured(run, data, batches):
    """Test loss and accuracy; a norm gets its population from the batches."""
    options = {"population": batches} if bnref.norms.find(run.model) else {}
    loss, accuracy = run.evaluate(data.x_test, data.y_test, **options)
    return {"test_loss": loss, "test_accuracy": accuracy}


def rows(optimizer, norm, rate, seed, data):
    """Train at one rate from one seed; a row a test."""
    run = prepared(optimizer, norm)
    run.optimizer.learning_rate = rate
    restart(run.model, run.optimizer, partial(network, NORMS[norm]), seed=seed)
    batches = np.split(data.x_train[:2000], 20)
    history = run.train(
        data.x_train, data.y_train, steps=STEPS, batch_size=64, seed=seed, every=STEPS,
        measure=partial(measured, data=data, batches=batches), progress=False,
    )  # fmt: skip
    tests = zip(history["step"], history["test_loss"], history["test_accuracy"], strict=True)
    found = [(int(step), round(float(loss), 5), float(share)) for step, loss, share in tests]
    return [dict(zip(COLUMNS, (optimizer, norm, rate, seed, *each), strict=True)) for each in found]


def runs(seeds):
    """All that is to be run, one optimizer and norm after the other."""
    return [
        dict(zip(KEY, (optimizer, norm, rate, seed), strict=True))
        for optimizer, rates in RATES.items()
        for norm in NORMS
        for rate in rates
        for seed in range(seeds)
    ]


def main():
    """Record what is not yet in the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    data = datasets.load("mnist")
    data = data.take(train=len(data.x_train), test=min(2000, len(data.x_test)))
    record = records.Record(
        records.path_of("with_and_without_rates.csv"), key=KEY, columns=COLUMNS,
        provenance={"data": str(data)},
    )  # fmt: skip
    small = replace(data, x_train=data.x_train[:, ::2, ::2], x_test=data.x_test[:, ::2, ::2])
    for one in record.progress(runs(parser.parse_args().seeds)):
        record.add(rows(**one, data=small))


if __name__ == "__main__":
    main()
