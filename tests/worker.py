"""One of several workers, with a fault: ``python worker.py FOLDER FAULT [FILE]``.

FAULT is one of these. In the middle of an epoch, "dies 1": the worker of that number kills itself;
"stops 1": it falls silent, and its connections stay open; "ends 1": it is told to end, by SIGTERM;
"waits 1": it writes to FOLDER.1, and goes on after SIGTERM. Throughout, "nan": the second replica's
loss is NaN from step 8 on; "late": a worker waits but 3 seconds for the others; "no dropout", which
is no fault: one device has the same curve then; "none".
FOLDER.fault is as old as a fault by a signal. At the end each says how often it has measured; the
first worker writes its history and weights to FILE.
"""

import os
import pickle
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from bnref import SyncBatchNorm, training, workers

FOLDER, FAULT = sys.argv[1:3]
SELF = workers.task().index
RATE = 0 if FAULT == "no dropout" else 0.2
RANDOM = np.random.default_rng(0)
X = (RANDOM.standard_normal((90, 6)) * [1, 5, 0.2, 1, 1, 3] + [0, 4, 0, -9, 0, 1]).astype("float32")
Y = np.int64(X[:, 0] * X[:, 4] > 0)


def wait_for_sigterm():
    """Python writes to the pipe whichever of TensorFlow's threads is given the signal."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    Path(f"{FOLDER}.{SELF}").write_text("waits")
    os.read(reading, 1)


def measure(run):
    """Called at every fifth step: the fourth time is at step 15."""
    measure.calls += 1
    faults = {"dies": signal.SIGKILL, "stops": signal.SIGSTOP, "ends": signal.SIGTERM}
    fault = {f"{name} {SELF}": number for name, number in faults.items()}.get(FAULT)
    if fault and measure.calls == 4:
        Path(f"{FOLDER}.fault").touch()
        os.kill(os.getpid(), fault)
    if f"waits {SELF}" == FAULT and measure.calls == 4:
        wait_for_sigterm()
    return dict(zip(("test_loss", "accuracy"), run.evaluate(X, Y), strict=True))


measure.calls = 0
strategy = training.strategy(timeout=3 if FAULT == "late" else 60)
print("all workers have started", flush=True)
keras.utils.set_random_seed(0)
with strategy.scope():
    layers = [keras.Input((6,)), keras.layers.Dense(16, use_bias=False), SyncBatchNorm()]
    layers += [keras.layers.ReLU(), keras.layers.Dropout(RATE), keras.layers.Dense(2)]
    model, optimizer = keras.Sequential(layers), keras.optimizers.Adam(0.01)


def loss(y, output):
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    spoilt = (tf.cast(optimizer.iterations.value, tf.int32) >= 7) & (replica == 1)
    return tf.where(spoilt & (FAULT == "nan"), np.nan, losses)


history = training.train(
    model, X, Y, steps=30, batch_size=21, optimizer=optimizer, loss=loss, measure=measure,
    every=5, checkpoints=training.Checkpoints(FOLDER, every=6), progress=False,
)  # fmt: skip
sys.stdout.write(f"worker {SELF} measured {measure.calls} times\n")
if SELF == 0 and sys.argv[3:]:
    Path(sys.argv[3]).write_bytes(pickle.dumps((history, [np.array(v) for v in model.variables])))
