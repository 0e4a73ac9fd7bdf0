"""Record the post "two towers" at its full size.

``python gallery/results/run_two_towers.py``: the four methods, and method 1 with its wrong line
put right, each with one tower and with two, on all of CIFAR-10 for 21 epochs: batches of 128 and
decay 0.5, as in the post's code; the variables are with the first tower, as we infer. The post
tells neither its network nor its optimizer; here they are four convolutions, and SGD with momentum
0.9 and a rate that falls linearly from 0.02, on images mirrored and shifted by up to 2 pixels at
random. About 45 minutes on two cores; stopped and started again, it goes on after the last finished
run. ``--seeds N`` starts more often. ``--adam`` runs method 1 alone, on two towers, by Adam at
0.001, from three seeds; about 25 minutes on two cores.

The code that made the file is that of the commit in its head. Since then the change of an average
is computed on the average's device, as in TensorFlow 1, and no longer on the tower's.
"""

import argparse
import time
from functools import partial

import numpy as np
import tensorflow as tf

from bnref import tf1
from bnref_gallery import datasets, records, tower_networks

v1 = tf.compat.v1
EPOCHS, BATCH, RATE = 21, 128, 0.02
COLUMNS = ("method", "towers", "seed", "epoch", "loss", "accuracy", "seconds")
PLACE = "TensorFlow servers on this machine (GPUs where there are two), variables with the first"
METHODS = {
    **{str(number): function for number, function in tf1.METHODS.items()},
    "1, repaired": partial(tf1.stored_moments_norm, repaired=True),
}
ADAM = "1, Adam"  # the same method as "1", by another optimizer


def batches(data, seed):
    """One epoch: each image at most once, in random order, mirrored and shifted at random."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(data.x_train))
    for first in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[first : first + BATCH]
        yield scaled(moved(data.x_train[chosen], random)), data.y_train[chosen]


def moved(x, random):
    """Mirror half of the images, and shift each by up to 2 pixels, its edge reflected."""
    x = np.where(random.random((len(x), 1, 1, 1)) < 0.5, x[:, :, ::-1], x)
    framed = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(framed, x.shape[1:3], (1, 2))
    down, right = random.integers(0, 5, (2, len(x)))
    return windows[np.arange(len(x)), down, right].transpose(0, 2, 3, 1)  # back to (N, H, W, C)


def scaled(x):
    """Pixels from 0 to 1, as numbers from -2 to 2."""
    return 4 * x - 2


def run(method, towers, seed, data):
    """Train one method on one or two towers; a row an epoch."""
    norm = METHODS["1" if method == ADAM else method]
    network = partial(tower_networks.convolutions, norm=norm)
    x_test, rows = scaled(data.x_test), []
    placement = tf1.separate_memory(towers, variables="with the first tower")
    with tf1.tensorflow_1(seed=seed):
        steps = EPOCHS * (len(data.x_train) // BATCH)
        step = v1.train.get_or_create_global_step()
        rate = v1.train.polynomial_decay(RATE, step, steps, 0.0)
        optimizer = v1.train.MomentumOptimizer(rate, 0.9)
        if method == ADAM:
            optimizer = v1.train.AdamOptimizer(0.001)
        classifier = tower_networks.Classifier(network, placement=placement, optimizer=optimizer)
        with tf1.session(placement) as session:
            session.run(v1.global_variables_initializer())
            for epoch in range(EPOCHS):
                start = time.monotonic()
                losses = [classifier.train(session, x, y) for x, y in batches(data, (seed, epoch))]
                accuracy = classifier.accuracy(session, x_test, data.y_test)
                seconds = round(time.monotonic() - start, 1)
                values = (round(float(np.mean(losses)), 4), round(accuracy, 4), seconds)
                rows.append(dict(zip(COLUMNS, (method, towers, seed, epoch, *values), strict=True)))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--adam", action="store_true")
    asked = parser.parse_args()
    seeds = range(asked.seeds)
    data = datasets.load("cifar10")
    if data.stand_in:
        raise SystemExit(f"this record is of CIFAR-10 itself; here is only {data}")
    # An even number of test images, so that two towers share them equally.
    data = data.take(train=len(data.x_train), test=len(data.x_test) // 2 * 2)
    record = records.Record(
        records.path_of("two_towers.csv"), key=("method", "towers", "seed"),
        columns=COLUMNS, provenance={"data": str(data), "towers": PLACE},
    )  # fmt: skip
    runs = [
        {"method": method, "towers": towers, "seed": seed}
        for seed in seeds for towers in (2, 1) for method in reversed(METHODS)
    ]  # fmt: skip
    if asked.adam:
        runs = [{"method": ADAM, "towers": 2, "seed": seed} for seed in range(3)]
    for one in record.progress(runs):
        record.add(run(**one, data=data))
