"""
Why does validation jump when batch norm is trained with training=True?
=======================================================================

Most likely because neighbouring batches are alike, and not because of the momentum. A network for
speech that is trained utterance by utterance has a validation loss of :claim:`0.64 <level>`, which
jumps by :claim:`0.115 <jump>` from test to test (the post: 0.13). Trained on the same frames, but
shuffled, it has a loss of :claim:`0.51 <shuffled_level>`, which jumps by
:claim:`0.014 <shuffled_jump>`. A momentum of 0.9, the first answer's cure, jumps by
:claim:`0.106 <faster_jump>`. Statistics that are recomputed before each test jump by
:claim:`0.035 <recomputed_jump>`, as does ``training=False`` throughout (the post: 0.03).

.. symptom:: validation jumps
   :doctor: batches_not_shuffled
   :cause: neighbouring batches are alike, so that the population is that of the last few
   :check: recompute it on shuffled batches (:func:`bnref.population.recompute`): does the test
      loss fall?

.. symptom:: validation far worse than training
   :doctor: batches_not_shuffled
   :cause: each batch is of one recording, speaker or class
   :check: shuffle examples, not files, and train for as many steps: is the gap gone?
"""

# %%
# Check
# -----
# It takes no training: give the check your batches in the order in which you train.

from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import doctor, training
from bnref_gallery import datasets, models, records, scale
from bnref_gallery.claims import claim

# %%
# Fix
# ---
# Shuffle frames, not files, with room for the frames of many files. ``frames_of`` makes a data set
# of one file. If the order cannot change, recompute the statistics before each test, on 20 batches
# from many files: ``bnref.population.recompute(model, batches)``.
#
# Wrong
# ^^^^^


def shuffled_files(files, frames_of):
    data = tf.data.Dataset.from_tensor_slices(files)
    data = data.shuffle(len(files))
    return data.flat_map(frames_of)


# %%
# Right
# ^^^^^


def shuffled_frames(files, frames_of):
    data = tf.data.Dataset.from_tensor_slices(files)
    data = data.shuffle(len(files))
    data = data.flat_map(frames_of)
    return data.shuffle(100_000)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics): the average holds those of the last utterances.
# `The post <https://stackoverflow.com/questions/50047653>`_ predicts 257 values from 7 × 257, as if
# clean speech from noisy. Is there an error in its code? None but, as we guess, the order of its
# batches; the first answer says to randomize it, and that helps. Is ``training=True`` necessary?
# Yes, or there is no batch norm. :doc:`More <plot_noisy_validation_and_the_answers_rules>`.
#
# Five guesses (the table below has all levels and jumps):
#
# - the momentum: no. 0.9, 0.99 and 0.999 all jump, and in batches of 32 and fewer 0.9 jumps more
#   than twice as much as 0.99, as the answer warns;
# - a lag behind the weights: hardly. Shuffled, recomputing lowers the loss by :claim:`0.006 <lag>`;
# - a mismatch of training and test: no. Normalized by themselves, test frames have the loss that
#   recomputed statistics give, to 0.01;
# - the weights alone: in part. Without any norm the loss jumps by :claim:`0.060 <none_jump>`;
# - the order: yes. Shuffling takes most of the jump away, and lowers the level.
#
# Two things stay unexplained: the post's gap in level, 0.78 to 0.37, is wider than here; and here
# batch norm brings nothing, as shuffled ``training=False`` ends at :claim:`0.49 <no_norm_level>`.
#
# Experiment
# ----------
# Recorded: the post's layers at a quarter of their width, Adam 0.0001, batches of 128, 3,000 steps,
# three seeds, 373 utterances, each with noise at a ratio of its own. The level is the median of the
# tests in the second half, a jump the mean difference of one test from the next.

provenance, sweep = records.read(records.path_of("noisy_validation.csv"))
print(records.provenance_line(provenance))


def series(order, norm, column, batch=128):  # shape (seeds, tests)
    chosen = (sweep["order"] == order) & (sweep["norm"] == norm) & (sweep["batch"] == batch)
    chosen &= sweep["step"] > 1500
    return sweep[column][chosen].reshape(len(set(sweep["seed"])), -1)


def jumps(losses):
    return np.abs(np.diff(losses)).mean(-1)


# %%
# In the record: order, norm, whose statistics; and how the arm is drawn.

ARMS = {
    "utterances, 0.99": ("utterances", "batch norm", "0.99", "C1o"),
    "momentum 0.9": ("utterances", "batch norm", "0.9", "C1v"),
    "momentum 0.999": ("utterances", "batch norm", "0.999", "C1^"),
    "recomputed": ("utterances", "batch norm", "recomputed", "C4o"),
    "test frames by themselves": ("utterances", "batch norm", "itself", "C3o"),
    "training=False": ("utterances", "off", "0.99", "C2o"),
    "no norm at all": ("utterances", "none", "0.99", "C5o"),
    "shuffled, 0.99": ("shuffled", "batch norm", "0.99", "C0s"),
    "shuffled, recomputed": ("shuffled", "batch norm", "recomputed", "C4s"),
    "shuffled, training=False": ("shuffled", "off", "0.99", "C2s"),
}
POST = [930, 993, 814, 859, 1043, 665, 754, 701, 508, 762, 787, 817, 727, 902, 633, 784, 528, 847]
POST = np.array([*POST, 805, 829, 802, 856, 702, 764, 776, 719, 678, 596, 739, 971]) / 1000
POST_OFF = np.array([474, 391, 369, 367, 383, 346, 337, 368, 331, 322, 336]) / 1000
found = {"the post": POST[None], "its training=False": POST_OFF[None]}
found |= {name: series(*arm[:3]) for name, arm in ARMS.items()}
level = {name: np.median(losses, -1) for name, losses in found.items()}
jump = {name: jumps(losses) for name, losses in found.items()}
for name in found:
    print(f"{name:26} level {level[name].mean():.2f}, jumps of {jump[name].mean():.3f}")

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 5.2), layout="constrained")
left.plot(range(1, 31), POST, "k.-", range(1, 12), POST_OFF, "k.:", ms=4)
for name in ("utterances, 0.99", "shuffled, 0.99"):
    left.plot(range(2, 31, 2), found[name][0], ARMS[name][3] + "-", ms=3)
left.set(title="Test by test, one seed", xlabel="test", ylabel="validation loss", ylim=(0.3, 1.1))
styles = {name: arm[3] for name, arm in ARMS.items()}
for name, style in (styles | {"the post": "k*", "its training=False": "kP"}).items():
    right.semilogy(level[name], jump[name], style, label=name)
right.set(title="Level and jump, all seeds", xlabel="median loss", ylabel="mean jump")
right.set(yticks=(0.003, 0.01, 0.03, 0.1), yticklabels=("0.003", "0.01", "0.03", "0.1"))
right.minorticks_off()
fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# Live, a layer of 256, batches of 32: by utterance the loss jumps :claim:`45 times <live>` as much.

train, test = datasets.load("speech").denoising(context=1)
starts, files = tf.constant(train.starts), np.arange(len(train.starts) - 1)
chosen = np.random.default_rng(0).permutation(test.starts[-1])[:1000]
x_test, y_test = test.inputs(chosen), test.clean[chosen]


def frames_of(file):
    return tf.data.Dataset.range(starts[file], starts[file + 1])


def batches_of(order):
    return list(order(files, frames_of).batch(32).take(300).as_numpy_iterator())


def network():
    norm = partial(bnref.BatchNorm, momentum=0.9)
    return models.perceptron(norm, inputs=(3 * 257,), units=(256,), outputs=257)


run = training.Run(network(), keras.optimizers.SGD(1.0), keras.losses.mean_squared_error)


def validated(order, seed):
    """The loss of 20 tests, one every 5 steps."""
    keras.utils.set_random_seed(seed)
    run.model.set_weights(network().get_weights())
    losses = []
    for number, batch in enumerate(batches_of(order), start=1):
        run.step(train.inputs(batch), train.clean[batch])
        if number > 200 and number % 5 == 0:
            losses.append(np.mean((run.model(x_test, training=False) - y_test) ** 2))
    return losses


seeds = range(scale.at_scale(quick=3, full=10))
by_file = [validated(shuffled_files, seed) for seed in seeds]
by_frame = [validated(shuffled_frames, seed) for seed in seeds]

# %%
# Proof
# -----
# Levels and jumps, in the mean of the seeds; live; and the doctor on batches in both orders.

ROWS = [
    ("level", "utterances, 0.99", 0.64), ("jump", "utterances, 0.99", 0.115),
    ("shuffled_level", "shuffled, 0.99", 0.51), ("shuffled_jump", "shuffled, 0.99", 0.014),
    ("recomputed_level", "recomputed", 0.54), ("recomputed_jump", "recomputed", 0.035),
    ("no_norm_level", "shuffled, training=False", 0.49), ("off_jump", "training=False", 0.034),
    ("faster_jump", "momentum 0.9", 0.106), ("none_jump", "no norm at all", 0.06),
    ("post_level", "the post", 0.78), ("post_jump", "the post", 0.127),
    ("post_off_level", "its training=False", 0.37), ("post_off_jump", "its training=False", 0.026),
]  # fmt: skip
for name, arm, about in ROWS:
    values, margin = (jump, 0.001) if name.endswith("jump") else (level, 0.006)
    bounds = {"above": about - margin, "below": about + margin}
    claim(name, values[arm], f"{name.split('_')[-1]} of the loss, {arm}", of="mean", **bounds)

# %%

lag = level["shuffled, 0.99"] - level["shuffled, recomputed"]
claim("lag", lag, "loss by recomputing, shuffled", above=0, below=0.015)
own = level["test frames by themselves"] - level["recomputed"]
assert np.abs(own).max() < 0.01, "normalized by themselves, the test frames are no better"
assert jump["momentum 0.999"].min() > 0.09, "0.999 jumps too"
for size in (4, 14, 32):
    small = [series("utterances", "batch norm", rho, size) for rho in ("0.9", "0.99")]
    assert jumps(small[0]).mean() > 2 * jumps(small[1]).mean(), "a lower momentum jumps more"

# %%

claim("live", jumps(by_file).mean() / jumps(by_frame).mean(), "jump over shuffled, live", above=5)


def alike(order):
    frames = train.inputs(np.concatenate(batches_of(order)))
    report = doctor.examine(network(), frames, only=["batches_not_shuffled"])
    return [finding.evidence for finding in report.findings]


wrong, right = alike(shuffled_files), alike(shuffled_frames)
print("the doctor, by utterance:", *wrong)
assert wrong, "the check fires on utterances"
assert not right, "and is silent on shuffled frames"
