"""Record the validation loss of the post "noisy validation" under the hypotheses about its jumps.

``python gallery/results/run_noisy_validation.py``: speech with noise in, without it out; 7 frames
of 257 log powers to 257 by three layers of 256, Adam 0.0001, 2,000 steps, three seeds. The arms:
the frames shuffled, or utterance by utterance; batches of 14, 32 and 128, and of 4 if shuffled;
batch norm, "off" (the post's ``training=False`` throughout: the start values normalize, γ and β are
trained), and no norm at all.

A network with batch norm does not read its population while it trains, so one training serves all
ways of remembering: its batches' moments go into three exponential averages, of momentum 0.9, 0.99
and 0.999, and a debiased one, 0.99; each is put in turn where the layers keep their population and
the same 1,000 test frames are tested. ``recomputed`` is Precise BN on 2,560 shuffled training
frames, so that only the weights are left to jump; ``itself`` is the loss if the test frames are
normalized by themselves; ``seen`` is the loss of 1,000 training frames by the average of 0.99,
where nothing differs between training and test data. Stopped and started again, it goes on where it
was. About 20 minutes on one core. ``--seeds N`` runs fewer.
"""

import argparse
from functools import cache, partial

import keras
import numpy as np
import tensorflow as tf

import bnref
from bnref import population, training
from bnref_gallery import datasets, models, records
from bnref_gallery.restarts import restart

STEPS, TESTED = 2000, 1000
TESTS = (10, 30, 100, 300, *range(1000, STEPS + 1, 100))  # after so many steps
MOMENTA = {"0.9": 0.9, "0.99": 0.99, "0.999": 0.999}
MEASURED = (*MOMENTA, "debiased", "recomputed", "itself", "seen")
KEY = ("order", "norm", "batch", "seed")
COLUMNS = (*KEY, "step", "training", *MEASURED)
NORMS = {
    "batch norm": lambda: bnref.BatchNorm(momentum=0),  # its population is the last batch
    "off": bnref.FrozenBatchNorm,
    "none": None,
}


def squared(y, output):
    """Loss of each frame."""
    return tf.reduce_mean(tf.square(y - output), -1)


def batches(frames, order, batch, random):
    """Indices of batches without end: frames in a new order every epoch."""
    rest, utterances = np.empty(0, int), np.split(np.arange(frames.starts[-1]), frames.starts[1:-1])
    while True:
        while len(rest) < batch:
            if order == "shuffled":
                rest = np.concatenate([rest, random.permutation(frames.starts[-1])])
            else:
                turns = random.permutation(len(utterances))
                rest = np.concatenate([rest, *(utterances[turn] for turn in turns)])
        yield rest[:batch]
        rest = rest[batch:]


class Populations:
    """Exponential averages of every norm layer's moments, to be tried one after another."""

    def __init__(self, model, train):
        """Start each at mean 0 and variance 1, as Keras does."""
        self.model, self.train, self.steps = model, train, 0
        self.layers = [each for each in model.layers if isinstance(each, bnref.BatchNorm)]
        start = np.array([[0 * each.moving_mean, 1 + 0 * each.moving_mean] for each in self.layers])
        self.averages = dict.fromkeys(MOMENTA, start)

    def follow(self):
        """Take in the batch that the layers, of momentum 0, hold."""
        batch = np.array([[each.moving_mean, each.moving_variance] for each in self.layers])
        self.steps += 1
        for name, rho in MOMENTA.items():
            self.averages[name] = rho * self.averages[name] + (1 - rho) * batch

    def keep(self, values):
        """Put means and variances where the layers keep their population."""
        for layer, (mean, variance) in zip(self.layers, values, strict=True):
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)

    def losses(self, test, seen):
        """The loss under each way of remembering, of test frames and of frames of the training."""
        kept = 0.99**self.steps
        start = np.array([0, 1])[None, :, None]
        debiased = (self.averages["0.99"] - kept * start) / (1 - kept)
        found = {}
        for name, values in {**self.averages, "debiased": debiased}.items():
            self.keep(values)
            found[name] = loss(self.model, test)
            if name == "0.99":
                found["seen"] = loss(self.model, seen)
        index = np.random.default_rng(self.steps).permutation(self.train.starts[-1])[:2560]
        population.recompute(self.model, (self.train.inputs(i) for i in np.split(index, 10)))
        found["recomputed"] = loss(self.model, test)
        return {**found, "itself": loss(self.model, test, training=True)}


def loss(model, frames, training=False):
    """The mean loss of some frames, given as (inputs, clean)."""
    inputs, clean = frames
    return float(np.mean(squared(clean, model(inputs, training=training))))


def some_of(frames):
    """The same 1,000 frames each time, as (inputs, clean)."""
    chosen = np.random.default_rng(0).permutation(frames.starts[-1])[:TESTED]
    return tf.constant(frames.inputs(chosen)), frames.clean[chosen]


def network(norm):
    """Three layers of 256."""
    shape = {"inputs": (7 * 257,), "units": (256,) * 3, "outputs": 257}
    return models.perceptron(NORMS[norm], **shape)


@cache
def run_of(norm, batch):
    """The network and its traced step, made once for all orders and seeds."""
    return training.Run(network(norm), keras.optimizers.Adam(1e-4), squared)


def run(order, norm, batch, seed, train, test):
    """Train one network; a row for each time it was measured."""
    made = run_of(norm, batch)
    restart(made.model, made.optimizer, partial(network, norm), seed=seed)
    populations = Populations(made.model, train) if norm == "batch norm" else None
    tested, seen = some_of(test), some_of(train)
    rows, last = [], []
    indices = batches(train, order, batch, np.random.default_rng(seed))
    for number, index in zip(range(1, STEPS + 1), indices, strict=False):
        last.append(float(made.step(train.inputs(index), train.clean[index])))
        if populations:
            populations.follow()
        if number in TESTS:
            if populations:
                found = populations.losses(tested, seen)
            else:
                found = dict.fromkeys(MEASURED, loss(made.model, tested))
                found["seen"] = loss(made.model, seen)
            found = {name: round(value, 4) for name, value in found.items()}
            key = dict(zip(KEY, (order, norm, batch, seed), strict=True))
            rows.append({**key, "step": number, "training": round(np.mean(last), 4), **found})
            last = []
    return rows


def arms(seeds):
    """Every run, the plain comparison first."""
    both = "shuffled", "utterances"
    for seed in range(seeds):
        for norm, batch, orders in [
            ("batch norm", 128, both), ("none", 128, both), ("off", 128, both),
            ("batch norm", 32, both), ("batch norm", 14, both), ("batch norm", 4, both[:1]),
        ]:  # fmt: skip
            for order in orders:
                yield {"order": order, "norm": norm, "batch": batch, "seed": seed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    data = datasets.load("speech")
    halves = data.denoising()
    record = records.Record(
        records.path_of("noisy_validation.csv"), key=KEY, columns=COLUMNS,
        provenance={"data": str(data)},
    )  # fmt: skip
    for one in record.progress(arms(seeds)):
        record.add(run(**one, train=halves[0], test=halves[1]))
