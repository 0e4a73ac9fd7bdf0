"""One of two workers with callbacks: ``python callbacks_worker.py FOLDER``.

It writes what it found to a file of its number in the folder. The workers' validation losses
differ, and so would what they decide by them.
"""

import json
import sys
from pathlib import Path

import keras
from test_callbacks import CURVE, X, Y, network

from bnref import training, workers

FOLDER, SELF = Path(sys.argv[1]), workers.task().index
CURVES = CURVE, [float(10 - i) for i in range(10)]


def measure(run):
    return {"val_loss": CURVES[SELF][int(run.optimizer.iterations.numpy()) // 2]}


strategy = training.strategy()
with strategy.scope():
    model, optimizer = network(), keras.optimizers.Adam(0.01)
callbacks = [
    keras.callbacks.EarlyStopping(patience=2),
    keras.callbacks.ReduceLROnPlateau(patience=1, cooldown=5, factor=0.5),
    keras.callbacks.CSVLogger(FOLDER / f"{SELF}.csv"),
]
history = training.train(
    model, X, Y, optimizer=optimizer, steps=20, batch_size=16, every=2, measure=measure,
    callbacks=callbacks, checkpoints=training.Checkpoints(FOLDER / "kept", every=100),
)  # fmt: skip
found = {
    "steps": history["step"].tolist(),
    "val_loss": history["val_loss"][1:].tolist(),  # that of step 0 is told to nobody
    "rate": float(optimizer.learning_rate.numpy()),
    "kernel": model.layers[0].kernel.numpy().tolist(),
}
(FOLDER / f"{SELF}.json").write_text(json.dumps(found))
