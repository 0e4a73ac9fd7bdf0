"""
Feeding the replicas: shards that differ are a small, sorted batch each
=======================================================================

Two workers share ten files, one of each digit. Where each reads five files of its own (``FILE``),
each normalizes by its own five digits, and the model that is saved classifies
:claim:`80 % <by_file>` of the test digits correctly. To share out examples (``DATA``) helps little,
:claim:`85 % <in_turn>`, if the files are read in turn: every second example is then from the same
five files. Shuffled before they are shared out, they lead to :claim:`90 % <shuffled>`, and so do
files of its own for each worker if the norms are synchronized, :claim:`90 % <synchronized>`.

.. symptom:: worse on two GPUs
   :cause: each worker reads files of its own, and these are sorted
   :check: count the labels in the first batches of each worker: are they alike?
   :likelihood: often
   :question: 1

.. symptom:: validation far worse than training
   :cause: the population that is saved is of one worker's files
   :check: count the labels in the first batches of each worker: are they alike?
   :likelihood: sometimes
   :question: 1
"""

# %%
# Check
# -----
# Count the labels that each worker reads, and compare. In units of what chance does, two shares of
# the same shuffled data differ by less than 5.

import tempfile
from functools import partial
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import devices, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%


def difference_of_shares(one, other, classes=10):
    """The largest difference of the counts of a label, in deviations of chance."""
    counts = [np.bincount(labels, minlength=classes) for labels in (one, other)]
    return np.max(np.abs(counts[0] - counts[1]) / np.sqrt(np.maximum(sum(counts), 1)))


# %%
# Fix
# ---
# Shuffle before you share out, with the same seed on all workers; or synchronize the norms. Batch
# and decode after that.
#
# Wrong
# ^^^^^


def own_files(files, context):
    workers, index = context.num_input_pipelines, context.input_pipeline_id
    own = files.shard(workers, index)
    records = own.interleave(tf.data.TFRecordDataset, cycle_length=10)
    return records.shuffle(1000, seed=0)


# %%
# Right
# ^^^^^


def own_examples(files, context):
    workers, index = context.num_input_pipelines, context.input_pipeline_id
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=10)
    return records.shuffle(3000, seed=0).shard(workers, index)


# %%
# Why
# ---
# It goes wrong at question 1 (whose statistics). A norm that is not synchronized normalizes by the
# share of its replica. If that is half of the classes, the mean of the share differs from that of
# all, and the difference is a hint at the class which there is not at inference. Question 2
# (remembered how) makes it worse: each replica remembers its own share, and the first one's
# population is saved. It is what neighbouring batches do to a moving average in time
# (:doc:`/gallery/questions/plot_noisy_validation_and_neighbouring_batches`), here in space.
#
# TensorFlow's ``auto_shard_policy`` shares out a ``tf.data.Dataset`` so, which several workers give
# to ``experimental_distribute_dataset``: ``FILE`` by files; ``DATA`` by examples, where all read
# everything; ``AUTO`` by files where it finds some; with ``OFF`` all use the same. Then, if their
# seeds are the same too, a batch of 64 is 32 images twice, and the step is that of 32. In one
# process there is one worker, and no policy changes anything: asked in
# `tensorflow/tensorflow#49828 <https://github.com/tensorflow/tensorflow/issues/49828>`_.
#
# Experiment
# ----------
# Ten files of records, and two workers whose shares of 32 one process reads in turn.

devices.configure()
strategy = training.strategy(2)
data = datasets.load("mnist").take(train=3000, test=1000)
folder = tempfile.TemporaryDirectory()
for digit in range(10):
    with tf.io.TFRecordWriter(f"{folder.name}/digit-{digit}.tfrecord") as writer:
        for image in data.x_train[data.y_train == digit]:
            writer.write(np.uint8(255 * image).tobytes() + bytes([digit]))
FILES = sorted(map(str, Path(folder.name).iterdir()))


def decoded(record):
    values = tf.ensure_shape(tf.io.decode_raw(record, tf.uint8), 785)
    image = tf.reshape(values[:-1], (28, 28, 1))
    return tf.cast(image, tf.float32) / 255, tf.cast(values[-1], tf.int64)


def in_turn(files, context):
    """By examples, without a shuffle before: every second one of ten files that are in turn."""
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=10)
    own = records.shard(context.num_input_pipelines, context.input_pipeline_id)
    return own.shuffle(1000, seed=0)


def all_of_it(files, context):
    """``OFF``, with the same seed."""
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=10)
    return records.shuffle(3000, seed=0)


# %%


def shares(read):
    """What each of two workers reads, in batches of 32."""
    files = tf.data.Dataset.from_tensor_slices(FILES)
    contexts = [tf.distribute.InputContext(2, index, 2) for index in (0, 1)]
    return [read(files, each).map(decoded).repeat().batch(32) for each in contexts]


def fed(read):
    """For the loop: the shares of both replicas in turn."""
    turns = tf.data.Dataset.range(2).repeat()
    return lambda context: tf.data.Dataset.choose_from_datasets(shares(read), turns)


def labels_of(share):
    return np.concatenate([y.numpy() for _, y in share.take(20)])


# %%


def accuracies(read, norm):
    """Of the model as it is saved, on test digits; one a seed."""

    def network():
        of_momentum = partial(norm, momentum=0.9)
        return models.perceptron(of_momentum, inputs=(28, 28, 1), units=(64, 64))

    with strategy.scope():
        run = training.Run(network(), keras.optimizers.SGD(0.1))
    found = []
    for seed in range(scale.at_scale(quick=3, full=10)):
        restart(run.model, run.optimizer, network, seed=seed)
        run.train(fed(read), steps=120, every=120)
        found.append(run.evaluate(data.x_test, data.y_test)[1])
    return np.array(found)


ARMS = {
    "own files": (own_files, bnref.BatchNorm),
    "every second example": (in_turn, bnref.BatchNorm),
    "shuffled, then shared out": (own_examples, bnref.BatchNorm),
    "own files, synchronized": (own_files, bnref.SyncBatchNorm),
}
results = {name: accuracies(*arm) for name, arm in ARMS.items()}
labels = {name: [labels_of(each) for each in shares(read)] for name, (read, _) in ARMS.items()}

# %%

fig, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.2), layout="constrained", sharey=True)
for place, name in enumerate(ARMS):
    for worker, offset in ((0, -0.18), (1, 0.18)):
        some = labels[name][worker][:64] + np.random.default_rng(0).uniform(-0.2, 0.2, 64)
        left.plot(some, np.full(64, place + offset), f"C{worker}|")
    right.plot(results[name], [place] * len(results[name]), "C4o", mfc="none")
left.set(title="Digits of the first\nand second worker", yticks=range(4), yticklabels=ARMS)
left.set(xlabel="digit", xticks=range(10), ylim=(3.6, -0.6))
right.set(title="As it is saved", xlabel="test accuracy", xlim=(0, 1))
left.set_ylabel("how the data are fed")
plt.show()

# %%
# Proof
# -----
# The check on the shares, and the accuracies.

apart = {name: difference_of_shares(*both) for name, both in labels.items()}
for name in ARMS:
    print(f"{name:26} shares apart {apart[name]:5.1f}, accuracies {results[name].round(3)}")
assert min(apart["own files"], apart["every second example"]) > 5, "the check fires on both"
assert apart["shuffled, then shared out"] < 5, "and is silent on shuffled shares"
own, turn, shuffled, synchronized = results.values()
claim("by_file", own, "test accuracy, own files", below=0.85, of="mean")
claim("in_turn", turn, "test accuracy, every second example", below=0.89, of="mean")
claim("shuffled", shuffled, "test accuracy, shuffled first", above=0.85)
claim("synchronized", synchronized, "test accuracy, own files, synchronized", above=0.85)
assert min(shuffled) > max(*own, *turn), "shuffled shares are better, with every seed"
same = np.array_equal(*map(labels_of, shares(all_of_it)))
assert same, "with the same seed all workers read the same"
folder.cleanup()
