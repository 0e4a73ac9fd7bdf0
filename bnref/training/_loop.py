"""The loop of a run: seeded batches, one step after the other, a history, checkpoints.

The weights come from Keras's random state, so a run is repeated by
``keras.utils.set_random_seed(seed)``, then building the model, then training with the same seed.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnref import workers
from bnref._checks import whole_number
from bnref.training._callbacks import Callbacks
from bnref.training._checkpoints import BoundCheckpoints, Checkpoints
from bnref.training._ending import Termination, end
from bnref.training._errors import check_same_step, explained, total_loss
from bnref.training._evaluation import Evaluation
from bnref.training._rows import as_columns, measured, rows_to_go_on_from, steps_left
from bnref.training._sources import source_of
from bnref.training._step import Step


class Loop:
    """What a `bnref.training.Run` does step by step; model, step and evaluation are the run's."""

    model: keras.Model
    strategy: tf.distribute.Strategy
    accumulate: int
    settings: dict
    _step: Step
    _evaluation: Evaluation

    def train(
        self, x: Any, y: Any = None, *, sample_weight: Any = None, steps: int | None = None,
        batch_size: int | None = None, carry: bool = True, seed: int = 0,
        measure: Callable | None = None, every: int = 10, checkpoints: Checkpoints | None = None,
        nonfinite: str = "raise", progress: bool | None = None,
        callbacks: list[keras.callbacks.Callback] | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Take a number of steps and return what was measured on the way.

        The same for one device, several devices and several workers (`strategy`). Of arrays every
        process has all and takes its replicas' shares of each global batch, so that all see the
        same batches in the same order, however many they are; a ``tf.data.Dataset`` is distributed
        by the strategy to the same effect.

        Parameters
        ----------
        x : array, shape (N, ...), finite; or a tuple, list or dictionary of such
            What is indexed by arrays of numbers, such as NumPy's, and memory maps: an example is
            read, and looked at, when its batch comes. Of several inputs the structure is that which
            the model takes.

            Or a ``tf.data.Dataset`` of global batches, whose elements are (x, y) or (x, y, weights)
            of any structure. It begins anew when it ends; batches may differ in size, and a replica
            may get nothing of a small one. Every worker reads all of it and keeps its part, and a
            resumed run skips what it has had, so let the data set give the same batches on each
            worker and each time: a ``shuffle`` with a seed, maps without random state. Where the
            first batches of two workers differ, all refuse it.

            Or a function that takes a ``tf.distribute.InputContext`` and returns a data set whose
            elements are the shares of one replica: called once on each worker, it is for reading
            only this worker's files. One with fewer than the others begins anew when it has read
            them, and one with none is refused by all.
        y : array, shape (N, ...), or a tuple, list or dictionary of such
            Class numbers for the default loss. Not with a data set.
        sample_weight : array, shape (N,) or that of the losses, optional
            The losses are multiplied by it, and still divided by the number of examples, as in
            ``fit``. Not with a data set.
        steps, batch_size : int, ≥ 1
            `batch_size` is that of all replicas together, at most N; not with a data set, whose
            batches have their sizes. `steps` may be left out with a data set that ends: one pass.
        carry : bool
            As for `shuffled_batches`: whether what is left over at the end of an epoch is shuffled
            into the next, or is a short batch. Of arrays.
        seed : int
            Of the order of the examples of arrays.
        measure : callable (run) -> dict of floats, optional
            Called before the first step, after every `every` steps and after the last; by each
            worker. The names are the same each time. ``run.evaluate`` is made for it.
        every : int, ≥ 1
        checkpoints : Checkpoints, optional
            Where the state is kept. A run that finds some there goes on from the last. At SIGTERM,
            by which schedulers announce that a machine is taken away, one more is written and the
            process ends: after the step, or, of several workers, when the next row or checkpoint is
            due. A program with its own handler of SIGTERM keeps that instead.
        nonfinite : {"raise", "keep"}
            What to do about a loss that is not finite, looked for whenever something is measured or
            written: stop, before a checkpoint is spoilt, or go on and keep it in the history.
        progress : bool, optional
            Show a bar on standard error; unless given, when that is a terminal. Only the first
            worker does.
        callbacks : list of keras.callbacks.Callback, optional
            Keras's, or one's own. A row of the history is to them what the end of an epoch is in
            ``fit``: they are told its number, from 0, and of "loss" and what `measure` gave; not of
            step 0, nor of a last row between two multiples of `every`. ``self.model`` has the run's
            optimizer; where it asks for the end (``stop_training``) the run ends with that row and
            a checkpoint, all workers at the same step.

            ``EarlyStopping``, ``ModelCheckpoint``, ``CSVLogger``, ``ReduceLROnPlateau``,
            ``TensorBoard`` (where tensorboard is installed), ``TerminateOnNaN`` (with
            ``nonfinite="keep"``) and ``LambdaCallback`` work; a ``monitor`` other than "loss" needs
            its ``mode``. Those that write files do so on the first worker; the others are told on
            all, of the first's numbers. Nobody is told of batches.

            A resumed run puts back what they had come to (numbers, words and truth values), so that
            patience is counted on, and a run that one of them ended stays ended. A ``CSVLogger``
            has all rows again, or goes on with ``append=True``. ``BackupAndRestore`` is refused,
            since `checkpoints` are that; ``LearningRateScheduler`` (use a schedule),
            ``SwapEMAWeights`` (use `averaged`), ``ProgbarLogger`` (use `progress`),
            ``RemoteMonitor``, whatever saves or writes by batches, and beside `checkpoints`
            ``restore_best_weights``, which they do not hold.

        Returns
        -------
        dict of numpy arrays
            "step" and "loss" (the training loss of the step before, NaN at step 0), and what
            `measure` gave, one entry for every time it was called, before an interruption too.

        Raises
        ------
        ValueError
            An argument out of range, `x` and `y` of different lengths, a data set without batches,
            with elements that the model does not take, or without an end and without `steps`,
            checkpoints of another run: before anything is trained. An example of `x` that is not
            finite: before the step of its batch, which is named.
        FloatingPointError
            The loss is not finite; says at which step and replica it was first.
        OSError
            A checkpoint could not be written, none of those there can be read, or a batch cannot.
        RuntimeError
            Another worker has stopped.
        SystemExit
            With status 143, after SIGTERM and a checkpoint.
        """
        source = source_of(
            self.model, x, y, sample_weight, batch_size=batch_size, carry=carry, seed=seed,
            accumulate=self.accumulate,
        )  # fmt: skip
        steps = self._check(source, steps, every, nonfinite)
        told = Callbacks(callbacks, self, resumable=checkpoints is not None)
        kept, done, rows, states = self._resumed(checkpoints, steps, every)
        learn = self._step.on_shares if source.shared else self._step
        losses = []  # shares of the loss, a step each, since they were last read
        stopping = Termination(self.strategy, watched=kept is not None)
        with told.training(rows, states), stopping as termination:
            with explained(done, checkpoints):
                batches = source.batches(start=done) if done < steps else iter(())
            for step in steps_left(done, steps, progress, stopped=told.stopped):
                row_due = step % every == 0 or step == steps
                checkpoint_due = checkpoints is not None and checkpoints.due(step, last=steps)
                with explained(step, checkpoints):
                    if step:
                        losses.append(learn(next(batches)))
                    ends = step > 0 and termination.agreed(together=row_due or checkpoint_due)
                    if row_due or checkpoint_due or ends:
                        raises = nonfinite == "raise"
                        loss = total_loss(self.strategy, losses, step=step, raises=raises)
                        losses.clear()
                    if row_due:
                        rows.append({"step": step, "loss": loss, **measured(self, measure, rows)})
                        told.tell(rows, every=every)
                    if kept is not None and (checkpoint_due or ends or told.stopped):
                        self._keep(kept, step, rows=rows, callbacks=told.states())
                    if ends and kept is not None:
                        end(step, kept.folder)
                if told.stopped:
                    break
        return as_columns(rows)

    def _resumed(self, checkpoints, steps, every):
        """The checkpoints of this run, and its step, rows and callbacks' states so far."""
        if checkpoints is None:
            return None, 0, [], {}
        kept = BoundCheckpoints(checkpoints, self)
        done, progress = kept.restore()
        check_same_step(self.strategy, done, checkpoints)
        rows = rows_to_go_on_from(progress["rows"], done, steps=steps, every=every)
        return kept, done, rows, progress["callbacks"]

    def _keep(self, kept, step, **progress):
        """Write a checkpoint of what all replicas agree on; the first worker does."""
        self._evaluation.populations.agree()
        if workers.task().index == 0:
            kept.write(step=step, **progress)

    def _check(self, source, steps, every, nonfinite):
        """The number of steps; refuses what is out of range, and keeps the `settings`."""
        steps = whole_number("steps", source.steps(steps))
        whole_number("every", every)
        if nonfinite not in ("raise", "keep"):
            raise ValueError(f"nonfinite must be 'raise' or 'keep'; received {nonfinite!r}")
        self.settings = {**source.settings, "accumulate": int(self.accumulate)}
        return steps
