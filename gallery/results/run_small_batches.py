"""Record a grid of rates and momenta for small batches: few images a replica, few images an update.

``python gallery/results/run_small_batches.py``: two regimes, which are two things.

- ``few``: an update has 4 images in all, on one replica; 400 updates.
- ``many``: an update has 128 images, shared by 128/b replicas of b = 4 images each, or all on one;
  200 updates. One device computes what 128/b replicas would, as in ``run_batch_size.py``.

Both train a perceptron of two layers of 64 by SGD on 3,000 digits, and test on 1,000. Every arm has
three rates or four, renormalization three momenta at each of them, and every one three seeds. The
inputs are centred and scaled by the training images, so that no arm lacks what batch norm does by
itself. Batch norm is tested by its moving average (momentum 0.9) and by a recomputed population, on
which its momentum has no influence, as it has none on its training. Stopped and started again, it
goes on where it was. ``--seeds N`` runs fewer or more.
"""

import argparse
from functools import cache, lru_cache, partial
from types import SimpleNamespace

import keras
import numpy as np

import bnref
from bnref import norms, population, training
from bnref_gallery import datasets, models, records
from bnref_gallery.restarts import restart

COLUMNS = ("regime", "batch", "norm", "momentum", "rate", "seed", "accuracy", "recomputed")
# Limits that open in the first steps: (step, limit).
OPENING = {"r_max": ((40, 1), (160, 3)), "d_max": ((40, 0), (120, 5))}
MOMENTA = (0.5, 0.9, 0.99)
REGIMES = {
    "few": SimpleNamespace(update=4, batches=(4,), updates=400, rates=(0.01, 0.03, 0.1)),
    "many": SimpleNamespace(update=128, batches=(4, 128), updates=200, rates=(0.03, 0.1, 0.3, 1.0)),
}


class RenormOnReplicas(bnref.GhostBatchNorm, bnref.BatchRenorm):
    """Batch renorm on each part of the batch: two hooks, one from each parent."""


@cache
def digits():
    """The data, centred and scaled."""
    data = datasets.load("mnist").take(train=3000, test=1000)
    mean, deviation = data.x_train.mean(), data.x_train.std()
    scaled = [np.float32((x - mean) / deviation) for x in (data.x_train, data.x_test)]
    labels = {"y_train": data.y_train, "y_test": data.y_test}
    return SimpleNamespace(x_train=scaled[0], x_test=scaled[1], **labels, name=str(data))


def norm_of(name, momentum, groups):
    """What makes the norms of an arm; ``groups`` replicas share the images of an update."""
    return {
        "batch": partial(bnref.GhostBatchNorm, groups=groups, momentum=momentum),
        "renorm": partial(RenormOnReplicas, groups=groups, momentum=momentum, **OPENING),
        "group": partial(keras.layers.GroupNormalization, 8),
        "layer": partial(keras.layers.GroupNormalization, 1),
        "none": None,
    }[name]


def network(norm):
    return models.perceptron(norm, inputs=(28, 28, 1), units=(64, 64))


@lru_cache(maxsize=1)
def run_of(regime, batch, norm, momentum):
    """What makes a network of the arm, and one with its traced step for all rates and seeds."""
    groups = REGIMES[regime].update // batch
    make = partial(network, norm_of(norm, momentum, groups))
    return make, training.Run(make(), keras.optimizers.SGD(0.1))


def tested(regime, batch, norm, momentum, rate, seed):
    """Accuracy by what was remembered, and by a population of 1,280 training images."""
    settings, data = REGIMES[regime], digits()
    make, run = run_of(regime, batch, norm, momentum)
    restart(run.model, run.optimizer, make, seed=seed)
    run.optimizer.learning_rate.assign(rate)
    run.train(
        data.x_train, data.y_train, steps=settings.updates, batch_size=settings.update, seed=seed,
        every=settings.updates,
    )  # fmt: skip
    accuracy = run.evaluate(data.x_test, data.y_test)[1]
    if not norms.find(run.model):
        return accuracy, accuracy
    population.recompute(run.model, np.split(data.x_train[:1280], 10))
    return accuracy, run.evaluate(data.x_test, data.y_test)[1]


def arms(seeds):
    """Every run; all seeds of an arm one after another, so that its step is traced once."""
    for regime, settings in REGIMES.items():
        for batch in settings.batches:
            for norm in ("batch", "renorm", "group", "layer", "none"):
                if norm in ("group", "layer", "none") and batch != settings.update:
                    continue  # these do not depend on the batch of a replica
                for momentum in MOMENTA if norm == "renorm" else (0.9,):
                    for rate in settings.rates:
                        for seed in range(seeds):
                            key = (regime, batch, norm, momentum, rate, seed)
                            yield dict(zip(COLUMNS, key, strict=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    record = records.Record(
        records.path_of("small_batches.csv"), key=COLUMNS[:6], columns=COLUMNS,
        provenance={"data": digits().name},
    )  # fmt: skip
    for one in record.progress(arms(seeds)):
        accuracies = [round(float(each), 4) for each in tested(**one)]
        record.add([{**one, "accuracy": accuracies[0], "recomputed": accuracies[1]}])
