"""
A worker dies: what the others say, and how the run goes on
===========================================================

When one of several workers is killed, the others cannot go on: each step needs all of them. Under
``bnref.training`` they end with a message that says so: at once where its connection closes, and
after about 10 seconds, TensorFlow's heartbeat, where it only falls silent. Started again, the run
goes on from its last checkpoint, with as many workers as there are then, and has **the curve**, to
0.001, of a run in which nothing happened.

The symptom: training stands still for some seconds and stops with ``UnavailableError: Collective
ops is aborted by …``; under ``bnref.training`` with a ``RuntimeError`` that quotes ``Collective ops
is aborted by``. None of the three questions is answered wrongly.

.. symptom:: an error message
   :cause: another worker was killed, or ran out of memory, and took the collectives with it
   :check: the message says ``Collective ops is aborted by``; look at the other workers' output
   :likelihood: often
   :question: none
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import training, workers
from bnref_gallery import datasets

# %%
# A run with a checkpoint every 20 steps. The population statistics are part of it, the optimizer's
# state, the random state of dropout, the step, and the history.


def learn(strategy, folder, measure):
    data = datasets.load("mnist").take(train=1000, test=300)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
        layers += [keras.layers.Dense(64, use_bias=False), bnref.SyncBatchNorm(momentum=0.9)]
        model = keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(10)])
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)

    def tested(run):
        measure()
        loss, _ = run.evaluate(data.x_test, data.y_test)
        return {"test_loss": loss}

    return training.train(
        model, data.x_train, data.y_train, steps=80, batch_size=64, optimizer=optimizer,
        measure=tested, every=5, checkpoints=training.Checkpoints(folder, every=20), progress=False,
    )  # fmt: skip


# %%
# What each worker runs. The second one kills itself when it measures the eleventh time, at step 50.


def worker(folder):
    own, calls = workers.task().index, []

    def measure():
        calls.append(1)
        if own == 1 and len(calls) == 11:
            os.kill(os.getpid(), signal.SIGKILL)

    learn(training.strategy(timeout=120), f"{folder}/checkpoints", measure)


if sys.argv[1:]:
    worker(*sys.argv[1:])
    sys.exit()

# %%
# Two workers, of which one is killed; the same run, started again on one device; and undisturbed:

script = worker.__code__.co_filename
with tempfile.TemporaryDirectory() as folder:
    with Path(folder, "output").open("w+") as output:
        try:
            workers.start(script, 2, folder, timeout=300, output=output)
        except RuntimeError as error:
            ended = str(error)
        output.seek(0)
        said = [line for line in output if line.startswith("RuntimeError: ")][-1].strip()
    kept = training.Checkpoints(f"{folder}/checkpoints").steps()
    resumed = learn(training.strategy(1), f"{folder}/checkpoints", lambda: None)
    undisturbed = learn(training.strategy(1), f"{folder}/alone", lambda: None)
print(ended, said, sep="\n\n")

fig, ax = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
ax.plot(undisturbed["step"], undisturbed["test_loss"], "C4-", label="one device, undisturbed")
before = resumed["step"] <= kept[-1]
for part, style, label in (
    (before, "C1s", "two workers, before"),
    (~before, "C0o", "started again, on one"),
):
    ax.plot(resumed["step"][part], resumed["test_loss"][part], style, label=label)
ax.axvspan(kept[-1], 50, color="C1", alpha=0.15, lw=0, label="lost, and trained again")
ax.set(title="Test loss", xlabel="training step", ylim=(0, None))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# There is a message, too, and no wait without end, for a worker that never starts
# (``strategy(timeout=...)`` is the limit), a port that is taken, a checkpoint that cannot be
# written or read (the one before it is used), and a replica whose loss is NaN.
#
# Conclusion
# ----------

gap = max(np.nanmax(np.abs(resumed[name] - undisturbed[name])) for name in undisturbed)
print(f"checkpoints left by the killed run: {kept}; distance of the curves: {gap:.1e}")
assert "worker 1 ended with status -9" in ended and "worker 0 ended with status 1" in ended
assert "Collective ops is aborted by" in said
assert "another worker has stopped" in said and f"it goes on from step {kept[-1]}" in said
assert kept == [20, 40] and gap < 1e-3
assert (resumed["step"] == undisturbed["step"]).all() and resumed["test_loss"][-1] < 1
