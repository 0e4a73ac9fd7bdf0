"""
One training loop for one device, several devices and several workers
=====================================================================

This file trains the same network on one device, on two, and as two processes. With synchronized
batch norm the three curves are **one curve**: the losses differ by less than **0.0001**. Copy it
and put in your network and your data; ``bnref.training`` is the loop.

* ``python plot_one_loop_for_one_device_and_many.py --replicas 2`` trains on two devices, GPUs if
  there are two;
* ``python -m bnref.workers 2 plot_one_loop_for_one_device_and_many.py --replicas 0`` starts two
  workers on this machine.

The loop answers question 1, *whose statistics*, as the layer does; what makes the curves agree is
told below.

.. symptom:: worse on two GPUs
   :cause: the loss is averaged on each replica, so that the gradients come out R times too large
   :check: double the replicas at the same global batch: is the first step's update the same?
   :likelihood: often
   :question: none
"""

import argparse
import sys
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import bnref
from bnref import datasets, devices, training, workers

# %%
# What to replace
# ---------------
# The model and the optimizer are built in the scope of the strategy. The batch is the global one.


def learn(strategy, folder=None):
    data = datasets.load("mnist").take(train=2000, test=500)
    keras.utils.set_random_seed(0)  # the same first weights everywhere
    with strategy.scope():
        norms = [bnref.SyncBatchNorm(momentum=0.9) for _ in range(2)]
        dense = [keras.layers.Dense(100, use_bias=False) for _ in norms]
        layers = [keras.Input((28, 28, 1)), keras.layers.Flatten()]
        for linear, norm in zip(dense, norms, strict=True):
            layers += [linear, norm, keras.layers.ReLU()]
        model = keras.Sequential([*layers, keras.layers.Dense(10)])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)

    def measure(model):
        loss, accuracy = training.evaluate(model, data.x_test, data.y_test)
        return {"test_loss": loss, "accuracy": accuracy}

    return training.train(
        model, data.x_train, data.y_train, steps=120, batch_size=62, optimizer=optimizer,
        measure=measure, every=10,
        # A run that is started again goes on from the last checkpoint.
        checkpoints=folder and training.Checkpoints(folder, every=50),
    )  # fmt: skip


# %%
# The program
# -----------
# Every worker runs it, with the others' addresses in ``TF_CONFIG``; one device is one replica.


def program(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicas", type=int, help="devices; 0: what there is; not given: compare")
    parser.add_argument("--checkpoints", help="a folder that all workers see")
    parser.add_argument("--history", help="where to save it, an .npz file")
    given = parser.parse_args(arguments)
    if given.replicas is not None:
        history = learn(training.strategy(given.replicas or None), given.checkpoints)
        if workers.task().index == 0:
            print(*(f"{n:4} {a:.4f}" for n, a in zip(history["step"], history["loss"], strict=True)))
            if given.history:
                np.savez(given.history, **history)
    return given.replicas is not None


if program(sys.argv[1:]):
    sys.exit()

# %%
# The same on one device, two devices, two workers
# ------------------------------------------------

devices.configure()
curves = {f"{n} device{'s'[: n > 1]}": learn(training.strategy(n)) for n in (1, 2, 3)}
script = program.__code__.co_filename
with tempfile.TemporaryDirectory() as folder:
    file = str(Path(folder) / "history.npz")
    workers.start(script, 2, "--replicas", "0", "--history", file, timeout=300)
    with np.load(file) as saved:
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
