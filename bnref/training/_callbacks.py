"""Keras's callbacks, told by the loop what ``fit`` would tell them at the end of an epoch."""

import contextlib
from collections.abc import Iterator
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from bnref import workers
from bnref.functional._replicas import gathered

of_keras = keras.callbacks
# They write files, so they are the first worker's.
_WRITERS = of_keras.CSVLogger, of_keras.ModelCheckpoint, of_keras.TensorBoard
_REFUSED = {
    of_keras.BackupAndRestore: "give checkpoints=, which keep more and go on in mid-epoch",
    of_keras.LearningRateScheduler: "make the optimizer with a schedule of keras.optimizers",
    of_keras.SwapEMAWeights: "evaluate within Run.averaged, which recomputes the statistics too",
    of_keras.ProgbarLogger: "give progress=True",
    of_keras.RemoteMonitor: "write a LambdaCallback that sends what you need",
}


class Callbacks:
    """The callbacks of a run, and what they have come to, which its checkpoints hold.

    Parameters
    ----------
    given : list of keras.callbacks.Callback, or None
    run : bnref.training.Run
    resumable : bool
        Whether the run has checkpoints.
    """

    def __init__(self, given, run, *, resumable):
        self.all = list(given or [])
        self.run, self.model, self.stopped = run, run.model, False
        for each in self.all:
            _check(each, run.optimizer, resumable=resumable)
        first = workers.task().index == 0
        self.told = [each for each in self.all if first or not isinstance(each, _WRITERS)]
        self._at_start: list = []
        self._together = len(workers.task().addresses) > 1 and bool(self.all)
        self._of_all = tf.function(partial(run.strategy.run, gathered))

    @contextlib.contextmanager
    def training(self, rows, states) -> Iterator[None]:
        """Within, the run trains; ``rows`` and ``states`` are those of its checkpoint.

        The model has the run's optimizer, and afterwards what it had before.
        """
        if not self.all:
            yield
            return
        before = getattr(self.model, "optimizer", None)  # a model that was not compiled has none
        self.model.optimizer, self.model.stop_training = self.run.optimizer, False
        try:
            for each in self.told:
                each.set_model(self.model)
                each.set_params({"epochs": None, "steps": None, "verbose": 0})
                each.on_train_begin({})
            self._at_start = [_simple(each) for each in self.all]
            self._resume(rows, states)
            self._begin_a_row(len(rows))
            yield
            for each in self.told:
                each.on_train_end({})
        finally:
            self.model.optimizer = before

    def _resume(self, rows, states):
        """Put back what callbacks had come to; a file that is begun anew gets its rows again."""
        self.stopped = bool(states.get("stopped"))
        for number, each in enumerate(self.all):
            for name, value in states.get(_key(number, each), {}).items():
                setattr(each, name, value)
            if each in self.told and isinstance(each, of_keras.CSVLogger) and not each.append:
                for epoch, row in enumerate(rows[1:]):
                    each.on_epoch_end(epoch, _logs(row))

    def tell(self, rows, *, every):
        """Tell them the last row; whether the run ends with it, which all workers say alike."""
        step = rows[-1]["step"]
        if not self.all or not step or step % every:
            return False
        rows[-1] = self._agreed(rows[-1])
        for each in self.told:
            if isinstance(each, of_keras.TerminateOnNaN):
                each.on_batch_end(step, _logs(rows[-1]))
            each.on_epoch_end(len(rows) - 2, _logs(rows[-1]))
        self._begin_a_row(len(rows))
        asked = {"asked": float(bool(self.model.stop_training))}
        self.stopped = any(row["asked"] for row in self._of_workers(asked))
        return self.stopped

    def states(self):
        """What callbacks have come to: their numbers, words and truth values that have changed."""
        found = {"stopped": self.stopped}
        for number, (each, before) in enumerate(zip(self.all, self._at_start, strict=True)):
            now = _simple(each).items()
            found[_key(number, each)] = {k: v for k, v in now if k not in before or before[k] != v}
        return found

    def _begin_a_row(self, rows):
        """Tell callbacks that another row begins; the one of step 0 is told to nobody."""
        for each in self.told:
            each.on_epoch_begin(max(rows - 1, 0), {})

    def _agreed(self, row):
        """The first worker's numbers, so that all decide by the same."""
        return {**row, **self._of_workers(_logs(row))[0], "step": row["step"]}

    def _of_workers(self, numbers):
        """The same numbers of each worker; one process has its own only."""
        if not self._together:
            return [numbers]
        own = tf.constant(list(numbers.values()), tf.float64)
        everywhere = self._of_all((own,))
        rows = np.array(self.run.strategy.experimental_local_results(everywhere)[0])
        return [dict(zip(numbers, map(float, row), strict=True)) for row in rows]


def _logs(row):
    """What a callback is told of a row."""
    return {name: value for name, value in row.items() if name != "step"}


def _key(number, callback):
    return f"{number} {type(callback).__name__}"


def _simple(callback):
    """The attributes of a callback that JSON holds, but for one that Keras turns round itself."""
    found = {}
    for name, value in vars(callback).items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, bool | int | float | str) and name != "min_delta":
            found[name] = value
    return found


def _check(callback, optimizer, *, resumable):
    """Refuse what is no callback, and those that need what only ``fit`` has."""
    if not isinstance(callback, of_keras.Callback):
        raise ValueError(
            f"callbacks must be Keras callbacks in a list; received {type(callback).__name__}"
        )
    name = type(callback).__name__
    for kind, instead in _REFUSED.items():
        if isinstance(callback, kind):
            raise ValueError(f"callbacks must not have {name}, which needs fit: {instead}")
    if getattr(callback, "save_freq", "epoch") != "epoch":
        raise ValueError(
            f"callbacks must have {name} with save_freq='epoch', which is a row here (every); "
            f"received {callback.save_freq!r}"
        )
    if getattr(callback, "update_freq", "epoch") != "epoch":
        raise ValueError(
            f"callbacks must have {name} with update_freq='epoch', which is a row here (every); "
            f"received {callback.update_freq!r}"
        )
    scheduled = all(each.name != "learning_rate" for each in optimizer.variables)
    if isinstance(callback, of_keras.ReduceLROnPlateau) and scheduled:
        raise ValueError(
            f"callbacks must not have {name} with a schedule of the learning rate, which it cannot "
            "change: make the optimizer with a number, or leave the callback out; received "
            f"{type(getattr(optimizer, 'inner_optimizer', optimizer)).__name__} with a schedule"
        )
    if resumable and getattr(callback, "restore_best_weights", False):
        raise ValueError(
            f"callbacks must have {name} without restore_best_weights beside checkpoints, which do "
            "not hold the best weights: add ModelCheckpoint with save_best_only=True"
        )
