"""Record how residual branches begin: with batch norm, with γ = 0, by SkipInit, and with none.

``python gallery/results/run_residual.py``: a residual network of 20 layers (8, 16 and 32 filters,
first convolution with stride 2) on all of CIFAR-10, one pass in batches of 128, images turned left
to right at random, SGD with momentum 0.9: from the first seed at five rates, from two more at the
two best of them. Loss and accuracy on all test images before and after, by a population that is
recomputed from 20 batches. About half an hour on one core; stopped and started again, it goes on
where it was. ``--seeds N`` runs
fewer or more.
"""

import argparse
from functools import cache, partial

import keras
import numpy as np

import bnref
from bnref import training
from bnref_gallery import datasets, records
from bnref_gallery.residual_networks import SkipInit, residual
from bnref_gallery.restarts import restart

STEPS, BATCH = 390, 128
RATES = (0.001, 0.004, 0.02, 0.1, 0.5)
KEY = ("branches", "rate", "seed")
COLUMNS = (*KEY, "step", "loss", "accuracy")


def zero_gamma():
    """Batch norm whose γ begins at 0."""
    return keras.layers.BatchNormalization(gamma_initializer="zeros")


BRANCHES = {
    "batch norm": {"norm": keras.layers.BatchNormalization},
    "zero γ": {"norm": keras.layers.BatchNormalization, "last": zero_gamma},
    "SkipInit": {"norm": None, "last": SkipInit},
    "none": {"norm": None},
}


def network(branches):
    """The images are turned inside the network, in training alone."""
    body = residual(**BRANCHES[branches], filters=(8, 16, 32), stride=2)
    return keras.Sequential([keras.Input((32, 32, 3)), keras.layers.RandomFlip("horizontal"), body])


@cache
def prepared(branches):
    """A run of this network, traced once for all rates and seeds."""
    return training.Run(network(branches), keras.optimizers.SGD(0.1, momentum=0.9))


def measured(run, data, batches):
    """Test loss and accuracy; a norm gets its population from the batches."""
    options = {"population": batches} if bnref.norms.find(run.model) else {}
    loss, accuracy = run.evaluate(data.x_test, data.y_test, **options)
    return {"test_loss": loss, "test_accuracy": accuracy}


def rows(branches, rate, seed, data):
    """Train at one rate from one seed; a row a test."""
    run = prepared(branches)
    run.optimizer.learning_rate = rate
    restart(run.model, run.optimizer, partial(network, branches), seed=seed)
    batches = np.split(data.x_train[:2560], 20)
    history = run.train(
        data.x_train, data.y_train, steps=STEPS, batch_size=BATCH, seed=seed, every=STEPS,
        measure=partial(measured, data=data, batches=batches), progress=False, nonfinite="keep",
    )  # fmt: skip
    tests = zip(history["step"], history["test_loss"], history["test_accuracy"], strict=True)
    found = [(int(step), round(float(loss), 5), float(share)) for step, loss, share in tests]
    return [dict(zip(COLUMNS, (branches, rate, seed, *each), strict=True)) for each in found]


def best_rates(branches, record):
    """The two rates of the highest accuracies that the first seed came to."""
    _, found = records.read(record.path)
    chosen = (found["branches"] == branches) & (found["seed"] == 0) & (found["step"] == STEPS)
    order = np.argsort(-found["accuracy"][chosen], kind="stable")
    return found["rate"][chosen][order[:2]].tolist()


def main():
    """Record what is not yet in the file: all rates of the first seed, then the other seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    data = datasets.load("cifar10")
    record = records.Record(
        records.path_of("residual.csv"), key=KEY, columns=COLUMNS, provenance={"data": str(data)}
    )
    at_all_rates = [
        {"branches": branches, "rate": rate, "seed": 0} for branches in BRANCHES for rate in RATES
    ]
    for one in record.progress(at_all_rates):
        record.add(rows(**one, data=data))
    at_the_best = [
        {"branches": branches, "rate": rate, "seed": seed}
        for seed in range(1, parser.parse_args().seeds)
        for branches in BRANCHES
        for rate in best_rates(branches, record)
    ]
    for one in record.progress(at_the_best):
        record.add(rows(**one, data=data))


if __name__ == "__main__":
    main()
