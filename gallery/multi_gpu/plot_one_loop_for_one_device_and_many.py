"""
One training loop for one device, several devices and several workers
=====================================================================

This file trains the same network on one device, on two, on three, and as two processes. With
synchronized batch norm the four curves are **one curve**: the training losses differ by less than
**0.0001**. Copy it and put in your network and your data; the loop is ``bnref.training``.

Downloaded to ``train.py``, it runs alone; the folder is for the history and the checkpoints::

    pip install ".[gallery]"    # in a clone of bnref
    python train.py 1 run
    python train.py 2 run-on-two
    python -m bnref.workers 2 train.py 0 run-of-workers

The second line uses two GPUs if there are two, and logical CPU devices elsewhere; the third starts
two workers on this machine, each with all its GPUs or one CPU. Question 1, *whose statistics*, is
what decides: with a layer that is not synchronized the curves differ.

.. symptom:: worse on two GPUs
   :cause: each replica takes the mean of its own losses, so that the summed gradients are R times
           too large
   :check: divide the sum of the losses by the global batch: is the first step that of one device?
   :likelihood: often
   :question: none
"""

import sys
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import devices, training, workers
from bnref_gallery import datasets

# %%
# What to replace: the data, the model and the optimizer, both made in the scope of the strategy.
# The batch is the global one. Started again, a run goes on from its last checkpoint.


def learn(strategy, folder):
    data = datasets.load("mnist").take(train=2000, test=500)
    keras.utils.set_random_seed(1)  # the same first weights everywhere
    with strategy.scope():
        model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
        for _ in range(2):
            model.add(keras.layers.Dense(100, use_bias=False))
            model.add(bnref.SyncBatchNorm(momentum=0.9))
            model.add(keras.layers.ReLU())
        model.add(keras.layers.Dense(10))
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)

    def measure(run):
        loss, accuracy = run.evaluate(data.x_test, data.y_test)
        return {"test_loss": loss, "accuracy": accuracy}

    return training.train(
        model, data.x_train, data.y_train, steps=120, batch_size=62, optimizer=optimizer,
        measure=measure, every=10, checkpoints=training.Checkpoints(folder, every=50),
    )  # fmt: skip


def program(replicas, folder):
    history = learn(training.strategy(int(replicas) or None), folder)
    if workers.task().index == 0:  # the first of several workers, or the only process
        np.savez(Path(folder) / "history.npz", **history)


if sys.argv[1:]:
    program(*sys.argv[1:])
    sys.exit()

# %%
# Without arguments it does all of it, and compares.

devices.configure()
curves, script = {}, program.__code__.co_filename
with tempfile.TemporaryDirectory() as folder:
    for n in (1, 2, 3):
        curves[f"{n} device{'s'[: n > 1]}"] = learn(training.strategy(n), f"{folder}/{n}")
    workers.start(script, 2, "0", f"{folder}/workers", timeout=300)
    with np.load(f"{folder}/workers/history.npz") as saved:
        curves["2 workers"] = dict(saved)

fig, (left, right) = plt.subplots(1, 2, figsize=(6.2, 3.4), layout="constrained")
one = curves["1 device"]
for (name, each), style in zip(curves.items(), ("C4-", "C0o", "C2+", "C3x"), strict=True):
    left.plot(each["step"], each["test_loss"], style, ms=6, label=name)
    if each is not one:
        right.semilogy(each["step"][1:], np.abs(each["loss"] - one["loss"])[1:], style, ms=6)
left.set(title="Test loss", xlabel="training step", ylim=(0, None))
right.set(title="Training loss: distance\nfrom one device", xlabel="training step")
fig.legend(loc="outside lower center", ncols=4)
plt.show()

# %%
# What makes them one: every process draws the same global batches, from seed and step, and each
# replica takes its part (21, 21 and 20 of 62; a part may be empty). Its loss is the sum over its
# part divided by the *global* batch, and the optimizer adds the gradients up. Batch norm weighs the
# parts by their counts. All evaluate by the population that is saved. With ``accumulate=k`` batch
# norm sees k parts of the batch one by one, and the curve is another:
# :doc:`/gallery/pitfalls/plot_accumulated_gradients_are_not_a_large_batch`. Rounding differs, and
# may carry a value over the corner of a ReLU: of eight starts tried, seven stayed within 0.00001,
# and one came to be 0.002 apart.
#
# For float16 set Keras's policy ``mixed_float16``, and wrap the optimizer in
# ``LossScaleOptimizer``.
#
# On several machines run the file on each, with the addresses of all and its own number. Under
# Slurm, in a job with one task a node::
#
#     hosts=$(scontrol show hostnames | sed 's/$/:12345/' | paste -sd,)
#     srun bash -c "python -m bnref.workers --hosts $hosts \
#         --index \$SLURM_PROCID train.py 0 shared/run"
#
# Kubeflow's TFJob sets ``TF_CONFIG`` itself: ``python train.py 0 shared/run``. All must see the
# folder.
#
# Conclusion
# ----------

for name, each in curves.items():
    print(f"{name:10} training loss", *(f"{loss:.4f}" for loss in each["loss"][1::3]))
    assert np.abs(each["loss"] - one["loss"])[1:].max() < 1e-4
    assert np.abs(each["test_loss"] - one["test_loss"]).max() < 1e-4
    assert np.ptp([each["accuracy"][-1], one["accuracy"][-1]]) < 0.005
assert one["test_loss"][-1] < one["test_loss"][0] / 3
