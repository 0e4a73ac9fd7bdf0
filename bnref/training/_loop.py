"""The loop of a run: seeded batches, one step after the other, a history, checkpoints.

The weights come from Keras's random state, so a run is repeated by
``keras.utils.set_random_seed(seed)``, then building the model, then training with the same seed.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bnref import workers
from bnref._checks import whole_number
from bnref.training._batches import check_data, number_of_examples, shuffled_batches
from bnref.training._checkpoints import BoundCheckpoints, Checkpoints
from bnref.training._ending import Termination, end
from bnref.training._errors import check_same_step, explained, total_loss
from bnref.training._evaluation import Evaluation
from bnref.training._step import Step


class Loop:
    """What a `bnref.training.Run` does step by step; model, step and evaluation are the run's."""

    strategy: tf.distribute.Strategy
    accumulate: int
    settings: dict
    _step: Step
    _evaluation: Evaluation

    def train(
        self, x: Any, y: Any, *, steps: int, batch_size: int, carry: bool = True,
        seed: int = 0, measure: Callable | None = None, every: int = 10,
        checkpoints: Checkpoints | None = None, nonfinite: str = "raise",
        progress: bool | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Take a number of steps and return what was measured on the way.

        The same for one device, several devices and several workers (`strategy`): every process has
        all the data and takes its replicas' shares of each global batch, so that all see the same
        batches in the same order, however many they are.

        Parameters
        ----------
        x : array, shape (N, ...), finite; or a tuple, list or dictionary of such
            What is indexed by arrays of numbers, such as NumPy's, and memory maps: an example is
            read, and looked at, when its batch comes. Of several inputs the structure is that which
            the model takes.
        y : array, shape (N, ...), or a tuple, list or dictionary of such
            Class numbers for the default loss.
        steps, batch_size : int, ≥ 1
            `batch_size` is that of all replicas together, at most N.
        carry : bool
            As for `shuffled_batches`: whether what is left over at the end of an epoch is shuffled
            into the next, or is a short batch.
        seed : int
            Of the order of the examples.
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

        Returns
        -------
        dict of numpy arrays
            "step" and "loss" (the training loss of the step before, NaN at step 0), and what
            `measure` gave, one entry for every time it was called, before an interruption too.

        Raises
        ------
        ValueError
            An argument out of range, `x` and `y` of different lengths, checkpoints of another run:
            before anything is trained. An example of `x` that is not finite: before the step of its
            batch; names both.
        FloatingPointError
            The loss is not finite; says at which step and replica it was first.
        OSError
            A checkpoint could not be written, or none of those there can be read.
        RuntimeError
            Another worker has stopped.
        SystemExit
            With status 143, after SIGTERM and a checkpoint.
        """
        self._check(x, y, steps, batch_size, carry, seed, every, nonfinite)
        kept = None if checkpoints is None else BoundCheckpoints(checkpoints, self)
        done, rows = (0, []) if kept is None else kept.restore()
        check_same_step(self.strategy, done, checkpoints)
        if steps < done:
            raise ValueError(
                f"steps must be at least {done}, where the checkpoint is; received {steps}"
            )
        if rows and done < steps and rows[-1]["step"] % every:  # the end of a shorter run
            rows.pop()
        batches = shuffled_batches(
            x, y, batch_size=batch_size, seed=seed, carry=carry, start=done
        )  # fmt: skip
        losses = []  # shares of the loss, a step each, since they were last read
        with Termination(self.strategy, watched=kept is not None) as termination:
            for step in _bar(done, steps, progress):
                if 0 < step == done:  # the checkpoint's own step, whose row it holds
                    continue
                row_due = step % every == 0 or step == steps
                checkpoint_due = checkpoints is not None and checkpoints.due(step, last=steps)
                with explained(step, checkpoints):
                    if step:
                        losses.append(self._step(*next(batches)))
                    ends = step > 0 and termination.agreed(together=row_due or checkpoint_due)
                    if row_due or checkpoint_due or ends:
                        raises = nonfinite == "raise"
                        loss = total_loss(self.strategy, losses, step=step, raises=raises)
                        losses.clear()
                    if row_due:
                        rows.append({"step": step, "loss": loss, **self._measured(measure, rows)})
                    if checkpoint_due or ends:
                        self._keep(kept, step, rows)
                    if ends and kept is not None:
                        end(step, kept.folder)
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def _keep(self, kept, step, rows):
        """Write a checkpoint of what all replicas agree on; the first worker does."""
        self._evaluation.agree()
        if workers.task().index == 0:
            kept.write(step=step, rows=rows)

    def _check(self, x, y, steps, batch_size, carry, seed, every, nonfinite):
        """Refuse arguments out of range, and keep as `settings` what belongs to a checkpoint."""
        whole_number("seed", seed, least=0)
        for name, value in {"steps": steps, "batch_size": batch_size, "every": every}.items():
            whole_number(name, value)
        check_data(x, y, batch_size=batch_size)
        size = number_of_examples(x, y)
        smallest = batch_size if carry else size % batch_size or batch_size
        if self.accumulate > smallest:
            raise ValueError(
                f"accumulate must be at most {smallest}, the smallest batch; "
                f"received {self.accumulate}"
            )
        if nonfinite not in ("raise", "keep"):
            raise ValueError(f"nonfinite must be 'raise' or 'keep'; received {nonfinite!r}")
        self.settings = {
            "seed": int(seed),
            "batch_size": int(batch_size),
            "accumulate": int(self.accumulate),
            "carry": bool(carry),
            "number of examples": size,
        }

    def _measured(self, measure, rows):
        """What `measure` returns, as numbers that a checkpoint can hold, after a check of names."""
        found = {} if measure is None else measure(self)
        found = {name: float(value) for name, value in found.items()}
        if rows and (names := set(rows[0]) - {"step", "loss"}) != set(found):
            raise ValueError(
                f"measure must give {sorted(names)} each time; received {sorted(found)}"
            )
        return found


def _bar(done, steps, progress):
    """The numbers of the steps from `done` on, shown as a progress bar if that is wanted."""
    shown = sys.stderr.isatty() if progress is None else progress
    shown = shown and workers.task().index == 0
    return tqdm(range(done, steps + 1), desc="training", unit="step", disable=not shown)
