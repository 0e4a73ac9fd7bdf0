"""
From one GPU to a cluster: one file, four ways to start it
==========================================================

The file of this page trains on one device or several, as processes of one machine, as a job of
Slurm, and where Kubeflow sets ``TF_CONFIG``. It reads images from files, each worker its part, and
the losses are equal to a 10,000th everywhere, the test accuracy is :claim:`89 % <accuracy>`. Its
code has no rank, no port and no GPU: with a rank both workers take themselves for the first one,
and wait. If they do not share out the data, they see :claim:`50 % <not_shared>` of it in a pass.

.. symptom:: an error message
   :cause: a rank or a port stands in the code, so that two workers take themselves for the same one
           and wait for another
   :check: what does ``bnref.workers.task()`` say on each of them?
   :likelihood: often
   :question: none

.. symptom:: worse on two GPUs
   :cause: all workers read the same examples, so that a step is that of one worker's batch
   :check: count the examples that two workers read together in a pass: are they all there?
   :likelihood: often
   :question: none
"""

# %%
# Check
# -----
# Count the different images that so many workers read together in the steps of a pass: as many as
# one alone. And let each worker print its place, ``bnref.workers.task()``: another one on each.

import json
import os
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import devices, training, workers
from bnref_gallery import datasets, image_files, models
from bnref_gallery.claims import claim
from bnref_gallery.itself import own_file, said_by

# %%


def images_read(data, number, steps):
    """How many different images a number of workers read together in so many steps."""
    seen = set()
    for index in range(number):
        context = tf.distribute.InputContext(number, index, number)
        for images, _ in data(context).take(steps):
            seen.update(map(bytes, images.numpy()))
    return len(seen)


# %%
# Fix
# ---
# Whoever starts the file knows a worker's place: ask for it, as ``training.strategy()`` does. And
# let W workers take every Wth record of one order: shuffle, then share out, then decode.
#
# Wrong
# ^^^^^


def place_wrong():
    hosts = ["node-1:12345", "node-2:12345"]
    told = {"cluster": {"worker": hosts}}
    told["task"] = {"type": "worker", "index": 0}
    os.environ["TF_CONFIG"] = json.dumps(told)
    return workers.task()


def own_wrong(records, number, index):
    return records.shuffle(500, seed=0).repeat()


# %%
# Right
# ^^^^^


def place_right():
    return workers.task()


def own_right(records, number, index):
    shuffled = records.shuffle(500, seed=0)
    return shuffled.repeat().shard(number, index)


# %%
# Why
# ---
# How it is started changes nothing of the statistics. All W workers shuffle the records
# alike, and worker w keeps every Wth of them, from number w on. Step k then takes
#
# .. math:: \bigcup_{w=0}^{W-1} \{ kB + w + jW : 0 \le j < B/W \} = \{ kB, \dots, kB + B - 1 \},
#
# the same B records for every W that divides B, and synchronized norms depend on no more.
#
# Asked in `tensorflow/tensorflow#39922 <https://github.com/tensorflow/tensorflow/issues/39922>`_
# and `tensorflow/tensorflow#39343 <https://github.com/tensorflow/tensorflow/issues/39343>`_.
#
# Experiment
# ----------
# Downloaded to ``train.py``, this file runs alone. Replace the network, and ``records``, the folder
# beside that of the run, which the first worker writes where there is none. The number is that of
# one process's devices, GPUs or logical CPU devices; 0 is all its GPUs, or one CPU::
#
#     pip install ".[gallery]"                       # in a clone of bnref
#     python train.py 2 run                          # two devices
#     python -m bnref.workers 2 train.py 0 run       # two processes of this machine
#     srun --nodes=2 python train.py 0 shared/run    # two nodes of Slurm
#     python train.py 0 shared/run                   # once for each task that TF_CONFIG names


def decoded(record):
    values = tf.io.decode_raw(record, tf.uint8)
    image = tf.reshape(values[:784], (28, 28, 1))
    return tf.cast(image, tf.float32) / 255, tf.cast(values[784], tf.int64)


def training_data(folder, own, context):
    """Shares of batches of 64 images, one a replica."""
    files = tf.data.Dataset.list_files(f"{folder}/train-*.tfrecord", shuffle=False)
    records = files.interleave(tf.data.TFRecordDataset)
    of_worker = own(records, context.num_input_pipelines, context.input_pipeline_id)
    return of_worker.map(decoded).batch(context.get_per_replica_batch_size(64))


# %%


def learn(strategy, records, folder):
    keras.utils.set_random_seed(1)  # the same first weights everywhere
    norm = partial(bnref.SyncBatchNorm, momentum=0.9)
    with strategy.scope():  # without ReLU, at whose corner rounding may tell the curves apart
        model = models.perceptron(norm, inputs=(28, 28, 1), units=(100, 100), activation="tanh")
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)

    test_data = tf.data.TFRecordDataset(f"{records}/test.tfrecord").map(decoded).batch(500)

    def measure(run):
        loss, accuracy = run.evaluate(test_data)
        return {"test_loss": loss, "accuracy": accuracy}

    return training.train(
        model, partial(training_data, records, own_right), steps=64, optimizer=optimizer,
        measure=measure, every=16, checkpoints=training.Checkpoints(folder, every=32),
    )  # fmt: skip


# %%


def program(replicas, folder):
    place, records = place_right(), Path(folder).absolute().with_name("records")
    if place.index == 0 and not records.exists():
        image_files.write(records, datasets.load("mnist").take(train=2048, test=1000))
    strategy = training.strategy(int(replicas) or None)  # waits for the other workers
    history = learn(strategy, records, folder)
    last = [f"{name} {values[-1]:.5g}" for name, values in history.items()]
    print(f"worker {place.index} of {len(place.addresses)}:", *last)
    if place.index == 0:
        np.savez(Path(folder) / "history.npz", **history)


if len(sys.argv) == 3 and sys.argv[1].isdecimal():
    program(*sys.argv[1:])
    sys.exit()

# %%
# Without arguments it trains on one device and on two, and starts itself as a TFJob does: a chief
# and a worker, which are told nothing but ``TF_CONFIG``.

devices.configure()
script, folder = own_file(program), tempfile.TemporaryDirectory()
program(1, f"{folder.name}/one device")
program(2, f"{folder.name}/two devices")

with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
    chief, worker = (f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))
cluster = {"chief": [chief], "worker": [worker]}
CONFIGS = [
    {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": 0}})}
    for kind in cluster
]
print(said_by(script, "0", f"{folder.name}/TF_CONFIG", environments=CONFIGS))

# %%
# ``tests/test_copied_files.py`` starts it in the other ways. On two nodes of Slurm it prints::
#
#     worker 0 of 2: step 64 loss 0.2641 test_loss 0.37463 accuracy 0.897
#     worker 1 of 2: step 64 loss 0.2641 test_loss 0.37463 accuracy 0.897
#
# All workers must see the folders. The same command goes on from the last checkpoint: ``scancel``
# and a preemption leave one; for the rest :doc:`/gallery/multi_gpu/plot_a_worker_that_dies`.

WAYS = "one device", "two devices", "TF_CONFIG"
curves = {name: dict(np.load(f"{folder.name}/{name}/history.npz")) for name in WAYS}
read = {}
for own in (own_right, own_wrong):
    data = partial(training_data, f"{folder.name}/records", own)
    read[own] = images_read(data, number=2, steps=2048 // 64)

# %%

fig, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
for name, style in zip(WAYS, ("C4-", "C0o", "C3x"), strict=True):
    axis.plot(curves[name]["step"], curves[name]["test_loss"], style, ms=7, label=name)
axis.set(title="The same file, started in other ways", xlabel="training step", ylabel="test loss")
axis.legend()
plt.show()

# %%
# Proof
# -----
# The curves, the data, and the place of each of two workers.

one = curves["one device"]
for name, each in curves.items():
    for curve in ("loss", "test_loss"):
        away = np.abs(each[curve] - one[curve])
        assert np.nanmax(away) < 1e-4, f"{name}: the {curve} of one device"
claim("accuracy", [each["accuracy"][-1] for each in curves.values()], "accuracy", above=0.85)
claim("not_shared", read[own_wrong] / read[own_right], "part of a pass, not shared out", below=0.55)
assert read[own_right] == images_read(data, number=1, steps=2048 // 64), "shared out, all are read"
for index, config in enumerate(CONFIGS):
    os.environ.update(config)
    assert place_right().index == index, "asked for, each has its own place"
    assert place_wrong().index == 0, "with a rank in the code both are the first one"
del os.environ["TF_CONFIG"]
folder.cleanup()
