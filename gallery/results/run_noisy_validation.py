"""Record the validation loss of the post "noisy validation" under many ways of going about it.

``python gallery/results/run_noisy_validation.py``: speech with noise in, without it out; 7 frames
of 257 log powers to 257 by three layers of 512, Adam 0.0001, 3,000 steps, three seeds, and ten
where they differ most: by utterance in batches of 128. The arms: the frames shuffled, or utterance
by utterance; batches of 4, 14, 32 and 128; batch norm, "off" (the post's ``training=False``
throughout: the start values normalize, γ and β are trained), no norm at all, and batch norm with
dropout (the post's code has dropout layers, but keeps everything).

A network with batch norm does not read its population while it trains, so one training serves all
ways of remembering: its batches' moments go into three exponential averages, of momentum 0.9, 0.99
and 0.999, and a debiased one, 0.99; each is put in turn where the layers keep their population and
the same 2,000 test frames are read. ``recomputed`` is Precise BN on 20 batches of 128 shuffled
training frames, ``itself`` the loss if the test frames are normalized by themselves. Stopped and
started again, it goes on where it was. About 45 minutes on two cores. ``--seeds N`` and ``--more
M``, of the arms by utterance, run fewer.
"""

import argparse

import keras
import numpy as np
import tensorflow as tf

import bnref
from bnref import population, training
from bnref_gallery import datasets, models, records

STEPS, EVERY, FIRST = 3000, 100, (10, 30)
MOMENTA = {"0.9": 0.9, "0.99": 0.99, "0.999": 0.999}
MEASURED = (*MOMENTA, "debiased", "recomputed", "itself")
KEY = ("order", "norm", "batch", "seed")
COLUMNS = (*KEY, "step", "training", *MEASURED)
NORMS = {
    "batch norm": lambda: bnref.BatchNorm(momentum=0),  # its population is the last batch
    "batch norm, dropout": lambda: bnref.BatchNorm(momentum=0),
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

    def losses(self, loss):
        """The loss under each way of remembering."""
        kept = 0.99**self.steps
        start = np.array([0, 1])[None, :, None]
        debiased = (self.averages["0.99"] - kept * start) / (1 - kept)
        found = {}
        for name, values in {**self.averages, "debiased": debiased}.items():
            for layer, (mean, variance) in zip(self.layers, values, strict=True):
                layer.moving_mean.assign(mean)
                layer.moving_variance.assign(variance)
            found[name] = loss(training=False)
        index = np.random.default_rng(self.steps).permutation(self.train.starts[-1])[:2560]
        population.recompute(self.model, (self.train.inputs(i) for i in np.split(index, 20)))
        found["recomputed"] = loss(training=False)
        return {**found, "itself": loss(training=True)}


def run(order, norm, batch, seed, train, test):
    """Train one network; a row for each time it was measured."""
    keras.utils.set_random_seed(seed)
    dropout = 0.2 if norm.endswith("dropout") else 0.0
    model = models.perceptron(
        NORMS[norm], inputs=(7 * 257,), units=(512,) * 3, outputs=257, dropout=dropout
    )
    step = training.Run(model, keras.optimizers.Adam(1e-4), squared).step
    chosen = np.random.default_rng(0).permutation(test.starts[-1])[:2000]
    x, y = tf.constant(test.inputs(chosen)), test.clean[chosen]
    populations = Populations(model, train) if norm.startswith("batch") else None
    rows, last = [], []

    def loss(training):
        return float(np.mean(squared(y, model(x, training=training))))

    indices = batches(train, order, batch, np.random.default_rng(seed))
    for number, index in zip(range(1, STEPS + 1), indices, strict=False):
        last.append(float(step(train.inputs(index), train.clean[index])))
        if populations:
            populations.follow()
        if number % EVERY == 0 or number in FIRST:
            found = populations.losses(loss) if populations else {}
            found = found or dict.fromkeys(MEASURED, loss(training=False))
            found = {name: round(value, 4) for name, value in found.items()}
            key = dict(zip(KEY, (order, norm, batch, seed), strict=True))
            rows.append({**key, "step": number, "training": round(np.mean(last), 4), **found})
            last = []
    return rows


def arms(seeds, more):
    """Every run, the plain comparison first; then further seeds where these differ most."""
    for seed in range(seeds):
        for norm, sizes in {
            "batch norm": (128, 32, 14, 4), "off": (128, 32), "none": (128, 32),
            "batch norm, dropout": (128,),
        }.items():  # fmt: skip
            for batch in sizes:
                for order in ("shuffled", "utterances"):
                    yield {"order": order, "norm": norm, "batch": batch, "seed": seed}
    for seed in range(seeds, more):
        for norm in ("batch norm", "off", "none"):
            yield {"order": "utterances", "norm": norm, "batch": 128, "seed": seed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--more", type=int, default=10)
    asked = parser.parse_args()
    data = datasets.load("speech")
    halves = data.denoising()
    record = records.Record(
        records.path_of("noisy_validation.csv"), key=KEY, columns=COLUMNS,
        provenance={"data": str(data)},
    )  # fmt: skip
    for one in record.progress(arms(asked.seeds, asked.more)):
        record.add(run(**one, train=halves[0], test=halves[1]))
