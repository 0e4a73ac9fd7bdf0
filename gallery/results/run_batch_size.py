"""Record how accuracy depends on the batch per replica, for six normalizations and none.

``python gallery/results/run_batch_size.py``: CIFAR-10, 10,000 images, 600 updates of 128 images by
Adam, its rate falling from 0.003 to 0 as a cosine; five seeds. The 128 images of an update are
shared by 128/b replicas of b images each, for b from 2 to 128, so that every arm takes the same
steps on the same images and only the statistics differ. One device computes what 128/b replicas
would: normalizing by replica is normalizing each of 128/b parts of the batch
(``GhostBatchNorm(groups=128 // b)``, which remembers the mean over the replicas), and synchronized
batch norm is ``BatchNorm`` on all 128. Accuracy is on 2,000 test images, with the population that
was remembered, and with one recomputed on 1,280 training images (Precise BN). Stopped and started
again, it goes on where it was. About 30 minutes on two cores. ``--seeds N`` runs fewer or more.
"""

import argparse
from functools import partial

import keras

import bnref
from bnref import population, training
from bnref_gallery import datasets, models, records

UPDATE, STEPS = 128, 600
BATCHES = (2, 4, 8, 16, 32, 64, 128)
SCHEDULE = {"r_max": [(100, 1), (300, 3)], "d_max": [(100, 0), (200, 5)]}
COLUMNS = ("norm", "batch", "seed", "accuracy", "recomputed", "loss")


@keras.saving.register_keras_serializable()
class RenormOnReplicas(bnref.GhostBatchNorm, bnref.BatchRenorm):
    """Batch renorm on each part of the batch: two hooks, one from each parent."""


def norms(batch):
    """What makes the normalization of each arm at this batch per replica; None elsewhere."""
    group = keras.layers.GroupNormalization
    shared = {"momentum": 0.9}
    arms = {
        "batch": partial(bnref.GhostBatchNorm, groups=UPDATE // batch, **shared),
        "renorm": partial(RenormOnReplicas, groups=UPDATE // batch, **SCHEDULE, **shared),
    }
    if batch > 2:
        arms["ghost"] = partial(bnref.GhostBatchNorm, groups=2 * UPDATE // batch, **shared)
    if batch == UPDATE:  # these do not depend on it
        arms["synchronized"] = partial(bnref.BatchNorm, **shared)
        arms["group"], arms["layer"] = partial(group, 8), partial(group, 1)
        arms["instance"], arms["none"] = partial(group, -1), None
    return arms


def run(name, batch, seed, data):
    """Train one arm from one seed; a row of what was measured."""
    keras.utils.set_random_seed(seed)
    model = models.three_convolutions(norms(batch)[name])
    rate = keras.optimizers.schedules.CosineDecay(0.003, STEPS)
    history = training.train(
        model, data.x_train, data.y_train, steps=STEPS, batch_size=UPDATE, seed=seed, every=STEPS,
        optimizer=keras.optimizers.Adam(rate), progress=False,
    )  # fmt: skip
    _, accuracy = training.evaluate(model, data.x_test, data.y_test)
    recomputed = accuracy
    if any(isinstance(layer, bnref.BatchNorm) for layer in model.layers):
        batches = (data.x_train[i : i + UPDATE] for i in range(0, 10 * UPDATE, UPDATE))
        population.recompute(model, batches)
        _, recomputed = training.evaluate(model, data.x_test, data.y_test)
    row = (name, batch, seed, round(accuracy, 4), round(recomputed, 4))
    return [dict(zip(COLUMNS, (*row, round(float(history["loss"][-1]), 4)), strict=True))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    data = datasets.load("cifar10").take(train=10_000, test=2000)
    record = records.Record(
        records.path_of("batch_size.csv"), key=("norm", "batch", "seed"), columns=COLUMNS,
        provenance={"data": str(data)},
    )  # fmt: skip
    runs = [
        {"norm": name, "batch": batch, "seed": seed}
        for seed in seeds for batch in BATCHES for name in norms(batch)
    ]  # fmt: skip
    for one in record.progress(runs):
        record.add(run(one["norm"], one["batch"], one["seed"], data))
