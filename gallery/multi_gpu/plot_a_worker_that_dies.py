"""
A worker dies: what the others say, and how the run goes on
===========================================================

When one of several workers is killed, the others cannot go on: each step needs all of them. Under
:func:`bnref.training.train` they end with a message that says so, here
:claim:`1.6 seconds <seconds>` after the kill; where the worker only falls silent, after about 10,
TensorFlow's heartbeat. With a checkpoint every 20 steps, a run that is killed at step 50 repeats
:claim:`10 steps <again>` when it is started again, and without one :claim:`50 <all_again>`. It goes
on with as many workers as there are then, and has the curve, to 0.001, of a run in which nothing
happened.

.. symptom:: an error message
   :cause: another worker was killed, or ran out of memory, and took the collectives with it
   :check: the message says ``Collective ops is aborted by``; look at the other workers' output
   :likelihood: often
   :question: none
"""

# %%
# Check
# -----
# Without ``bnref.training`` training stands still for some seconds, and then stops with
# ``UnavailableError: Collective ops is aborted by …``; with it, the RuntimeError quotes that.

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import training, workers
from bnref_gallery import datasets
from bnref_gallery.claims import claim
from bnref_gallery.itself import own_file

# %%


def another_worker_stopped(error):
    return "Collective ops is aborted by" in str(error)


# %%
# Fix
# ---
# Keep checkpoints, in a folder that all workers see. A checkpoint has the weights, the population
# statistics, the optimizer's state, the random state of dropout, the step, and the history. To go
# on, call the same again. There is a message, too, and no wait without end, for a worker that never
# starts (``strategy(timeout=...)`` is the limit), a port that is taken, a checkpoint that cannot be
# written or read (the one before it is used), and a replica whose loss is NaN.
#
# Wrong
# ^^^^^


def train_from_the_start(folder, *given, **how):
    return training.train(*given, **how)


# %%
# Right
# ^^^^^


def train_from_the_last(folder, *given, **how):
    kept = training.Checkpoints(folder, every=20)
    how["checkpoints"] = kept
    return training.train(*given, **how)


# %%
# Why
# ---
# Nothing is wrong with the statistics. A synchronized layer and the sum of the gradients
# wait for all workers in each step, so no worker can end a step without the one that died.
#
# Experiment
# ----------
# A run of 80 steps that is tested every 5.


def learn(train, strategy, folder, measure):
    data = datasets.load("mnist").take(train=1000, test=1000)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
        layers += [keras.layers.Dense(64, use_bias=False), bnref.SyncBatchNorm(momentum=0.9)]
        model = keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(10)])
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)

    def tested(run):
        measure()
        return {"test_loss": run.evaluate(data.x_test, data.y_test)[0]}

    options = {"steps": 80, "batch_size": 64, "optimizer": optimizer, "progress": False}
    options |= {"measure": tested, "every": 5}
    return train(folder, model, data.x_train, data.y_train, **options)


# %%
# What each worker runs. The second one kills itself when it measures the eleventh time, at step 50.


def worker(folder):
    own, calls = workers.task().index, []

    def measure():
        calls.append(1)
        if own == 1 and len(calls) == 11:
            Path(folder, "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    strategy = training.strategy(timeout=120)
    learn(train_from_the_last, strategy, f"{folder}/checkpoints", measure)


if len(sys.argv) == 2:
    worker(sys.argv[1])
    sys.exit()

# %%
# Two workers, of which one is killed:

script = own_file(worker)
folder = tempfile.TemporaryDirectory()
with Path(folder.name, "output").open("w+") as output:
    try:
        workers.start(script, 2, folder.name, timeout=300, output=output)
    except RuntimeError as error:
        ended = str(error)
    seconds = time.time() - Path(folder.name, "killed").stat().st_mtime
    output.seek(0)
    said = [line for line in output if line.startswith("RuntimeError: ")][-1].strip()
print(ended, said, sep="\n\n")

# %%
# The same run is started again on one device, and runs undisturbed; and, without checkpoints, it is
# stopped at step 50 and started again. Each counts what it measured.


class StoppedError(Exception):
    """In place of a kill."""


def run_again(train, name, stop=None):
    """The history, and how often it was measured."""
    calls = []

    def measure():
        calls.append(1)
        if len(calls) == stop:
            raise StoppedError

    history = learn(train, training.strategy(1), f"{folder.name}/{name}", measure)
    return history, len(calls)


kept = training.Checkpoints(f"{folder.name}/checkpoints").steps()
resumed, resumed_tests = run_again(train_from_the_last, "checkpoints")
undisturbed, _ = run_again(train_from_the_last, "alone")
try:
    run_again(train_from_the_start, "none", stop=11)
except StoppedError:
    _, tests_from_the_start = run_again(train_from_the_start, "none")
folder.cleanup()

# %%

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
ax.plot(undisturbed["step"], undisturbed["test_loss"], "C4-", label="one device, undisturbed")
parts = {
    "two workers, before": ("C1s", resumed["step"] <= kept[-1]),
    "started again, on one": ("C0o", resumed["step"] > kept[-1]),
}
for label, (style, part) in parts.items():
    ax.plot(resumed["step"][part], resumed["test_loss"][part], style, label=label)
ax.axvspan(kept[-1], 50, color="C1", alpha=0.15, lw=0, label="lost, and trained again")
ax.set(title="A run that is killed at step 50", xlabel="training step", ylabel="test loss")
ax.set(ylim=(0, None))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----
# What the workers said, and how the run went on.

assert "worker 1 ended with status -9" in ended, "one worker was killed"
assert "worker 0 ended with status 1" in ended, "the other ended"
assert "another worker has stopped" in said, "and says why"
assert f"it goes on from step {kept[-1]}" in said, "and from where it can go on"
claim("seconds", seconds, "seconds from the kill to the end of both", above=0, below=60)
assert another_worker_stopped(said), "the check knows the message"
assert not another_worker_stopped("ValueError: shapes differ"), "and no other"
assert kept == [20, 40], "two checkpoints are left"
begin = 80 - 5 * resumed_tests, 80 - 5 * (tests_from_the_start - 1)  # step 0 is measured, too
claim("again", 50 - begin[0], "steps made twice, with checkpoints", above=0, below=20.5)
claim("all_again", 50 - begin[1], "steps made twice, without", above=49, below=51)
gap = max(np.nanmax(np.abs(resumed[name] - undisturbed[name])) for name in undisturbed)
print(f"checkpoints left by the killed run: {kept}; distance of the curves: {gap:.1e}")
assert gap < 1e-3, "the curve is that of a run in which nothing happened"
assert (resumed["step"] == undisturbed["step"]).all(), "at all steps, also those before the kill"
assert resumed["test_loss"][-1] < 1, "and it learns"
