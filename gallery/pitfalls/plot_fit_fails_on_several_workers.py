"""
Keras 3 cannot fit on several workers, but a custom loop can
============================================================

Under ``MultiWorkerMirroredStrategy`` the ``fit`` of Keras 3.15 ends at the first batch with the
ValueError "Attempt to convert a value (PerReplica …)". A loop around ``strategy.run`` works: with
:class:`bnref.layers.SyncBatchNorm` two workers have the losses of one device, to rounding. ``fit``
of tf_keras works too.

.. symptom:: an error message
   :cause: Keras 3's ``fit`` does not know the distributed batches of several workers
   :check: the message names ``PerReplica``, and the strategy is ``MultiWorkerMirroredStrategy``
   :likelihood: sometimes
   :question: none
"""

# %%
# Check
# -----
# The message says it, at the first batch: it names a value of several workers, ``PerReplica``.

import json
import os
import socket
import subprocess
import sys

import matplotlib.pyplot as plt

from bnref_gallery import defects
from bnref_gallery.claims import claim


def fit_cannot_take_several_workers(error):
    """Whether this is the error of Keras 3's ``fit``, and not one of the data."""
    return "convert a value (PerReplica" in str(error)


# %%
# Fix
# ---
# Write the loop: ``optimizer.apply`` adds up the gradients of the workers if each divides its loss
# by the global batch. Both sides are text here, because each worker is a process that runs them. On
# one machine ``MirroredStrategy`` needs no second process.
#
# Wrong
# ^^^^^

WRONG = """
def losses_by_fit(keras, strategy):
    with strategy.scope():
        model = network(keras, keras.layers.BatchNormalization)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.3), loss)
    return model.fit(data, epochs=3, verbose=0).history["loss"]
"""

# %%
# Right
# ^^^^^

RIGHT = """
def losses_by_loop(keras, strategy):
    with strategy.scope():
        model, optimizer = network(keras, SyncBatchNorm), keras.optimizers.SGD(0.3)
        optimizer.build(model.trainable_variables)
    step = step_of(model, optimizer)
    run = tf.function(lambda x, y: strategy.reduce("sum", strategy.run(step, (x, y)), None))
    batches = strategy.experimental_distribute_dataset(data)
    return [float(np.mean([run(*batch) for batch in batches])) for _ in range(3)]
"""

# %%
# Why
# ---
# Nothing is wrong with the statistics: ``fit`` reduces a batch of several workers as if it were a
# tensor. Met in
# `keras-team/keras#20585 <https://github.com/keras-team/keras/issues/20585>`_, which is open.
#
# Experiment
# ----------
# What each worker runs, with ``TF_CONFIG`` set before. The strategy comes before everything else.

WORKER = """
import json
import tensorflow as tf

workers = tf.distribute.MultiWorkerMirroredStrategy()
import bnref, keras, numpy as np, tf_keras
SyncBatchNorm = bnref.SyncBatchNorm
x = np.random.default_rng(0).standard_normal((640, 8)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, np.int64(x[:, 0] * x[:, 1] > 0))).batch(64)
sharding = tf.data.Options()
sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
data = data.with_options(sharding)

def network(keras, norm):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.Dense(32), norm(), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])
"""

# %%
# The step of a replica, which the loop runs, and what is asked of the worker.

STEP = """
def step_of(model, optimizer):
    weights = model.trainable_variables
    def step(x, y):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True))
            loss = tf.reduce_sum(losses) / 64  # by the global batch: the gradients are added up
        optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        return loss
    return step
"""
ASKED = """
try:
    results = {"Keras 3, fit": losses_by_fit(keras, workers)}
except ValueError as error:
    results = {"Keras 3, fit": f"ValueError: {error}".splitlines()[0]}
results["Keras 3, loop"] = losses_by_loop(keras, workers)
results["tf_keras, fit"] = losses_by_fit(tf_keras, workers)
results["one device"] = losses_by_loop(keras, tf.distribute.get_strategy())
print(json.dumps(results))
"""

# %%
# Two workers on this machine. Whatever happens, both are ended.


def free_addresses():
    local = ("127.0.0.1", 0)
    with socket.create_server(local) as first, socket.create_server(local) as second:
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]


def started(addresses, index, output):
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "1"}
    environment["TF_CONFIG"] = json.dumps(task)
    options = {"env": environment, "stdout": output, "stderr": subprocess.STDOUT, "text": True}
    program = WORKER + STEP + WRONG + RIGHT + ASKED
    return subprocess.Popen([sys.executable, "-c", program], **options)


addresses, processes = free_addresses(), []
try:
    for index, output in ((1, subprocess.DEVNULL), (0, subprocess.PIPE)):
        processes.append(started(addresses, index, output))
    lines = processes[-1].communicate(timeout=120)[0].splitlines()
finally:
    for process in processes:
        process.kill()
        process.wait()
answers = [json.loads(line) for line in lines if line.startswith('{"Keras 3')]
assert answers, "\n".join(lines[-40:])
results = answers[0]

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
for (name, losses), style in zip(results.items(), ("C1x", "C0o", "C2^-", "C4-"), strict=True):
    if isinstance(losses, list):
        ax.plot(range(1, 4), losses, style, ms=8, label=name)
    else:
        ax.text(2, 0.15, f"{name}: ValueError at the first batch", color="C1", ha="center")
ax.set(
    title="Two workers", xlabel="epoch", ylabel="training loss", xticks=range(1, 4), ylim=(0, 0.8)
)
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# The message, and the losses of two workers and of one device.

for name, result in results.items():
    print(f"{name:14}", result if isinstance(result, str) else [round(loss, 4) for loss in result])
fails = isinstance(results["Keras 3, fit"], str)
defects.defect("fit_on_workers", fails)
if fails:
    message = results.pop("Keras 3, fit")
    assert fit_cannot_take_several_workers(message), "the message that the page cites"
other = "ValueError: Attempt to convert a value (None) with an unsupported type"
assert not fit_cannot_take_several_workers(other), "the check is silent on another message"
pairs = zip(results["Keras 3, loop"], results["one device"], strict=True)
apart = [abs(two - one) for two, one in pairs]
claim("apart", max(apart), "largest difference of the losses", below=1e-4)
for name, losses in results.items():
    assert losses[-1] < 0.8 * losses[0], f"{name}: it learns"
