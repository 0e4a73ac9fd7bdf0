"""The training loop: seeded batches, one compiled step, a history, checkpoints.

The weights come from Keras's random state, so a run is repeated by
``keras.utils.set_random_seed(seed)``, then building the model, then ``train(..., seed=seed)``.
"""

import sys
from numbers import Integral

import keras
import numpy as np
from tqdm import tqdm

from bnref import workers
from bnref.training.evaluating import agree
from bnref.training.failing import all_at, explained, total
from bnref.training.sharing import check_data, check_whole, shuffled_batches
from bnref.training.step import compiled_step

__all__ = ["train"]


def train(
    model, x, y, *, steps, batch_size, optimizer=None, loss=None, accumulate=1, jit_compile=False,
    carry=True, seed=0, measure=None, every=10, checkpoints=None, nonfinite="raise", progress=None,
):  # fmt: skip
    """Train ``model`` for a number of steps and return what was measured on the way.

    The same for one device, several devices and several workers (`strategy`): every process has all
    the data and takes its replicas' shares of each global batch, so that all see the same batches
    in the same order, however many they are.

    Parameters
    ----------
    model : keras.Model
        Built in the scope of its strategy, if there is one.
    x : array, shape (N, ...), finite
        One array that is indexed by arrays of numbers, such as NumPy's; a model of several inputs
        and a ``tf.data.Dataset`` need a loop of their own around `compiled_step`.
    y : array, shape (N, ...)
        Class numbers for the default loss.
    steps, batch_size : int, ≥ 1
        `batch_size` is that of all replicas together, at most N.
    optimizer : keras.optimizers.Optimizer, optional
        Adam with a learning rate of 0.001 unless given.
    loss, accumulate, jit_compile
        As for `compiled_step`.
    carry : bool
        As for `shuffled_batches`: whether what is left over at the end of an epoch is shuffled into
        the next, or is a short batch.
    seed : int
        Of the order of the examples.
    measure : callable (model) -> dict of floats, optional
        Called before the first step, after every `every` steps and after the last; by each worker.
        The names are the same each time.
    every : int, ≥ 1
    checkpoints : Checkpoints, optional
        Where the state is kept. A run that finds some there goes on from the last.
    nonfinite : {"raise", "keep"}
        What to do about a loss that is not finite, looked for whenever something is measured or
        written: stop, before a checkpoint is spoilt, or go on and keep it in the history.
    progress : bool, optional
        Show a bar on standard error; unless given, when that is a terminal. Only the first worker
        does.

    Returns
    -------
    dict of numpy arrays
        "step" and "loss" (the training loss of the step before, NaN at step 0), and what `measure`
        gave, one entry for every time it was called, before an interruption too.

    Raises
    ------
    ValueError
        An argument out of range, `x` and `y` of different lengths, `x` not finite, checkpoints of
        another run: before anything is trained.
    FloatingPointError
        The loss is not finite; says at which step and replica it was first.
    OSError
        A checkpoint could not be written, or none of those there can be read.
    RuntimeError
        Another worker has stopped.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a whole number, at least 0; received {seed!r}")
    check_whole(steps=steps, batch_size=batch_size, every=every, accumulate=accumulate)
    check_data(x, y, batch_size=batch_size)
    smallest = batch_size if carry else len(x) % batch_size or batch_size
    if accumulate > smallest:
        raise ValueError(
            f"accumulate must be at most {smallest}, the smallest batch; received {accumulate}"
        )
    if nonfinite not in ("raise", "keep"):
        raise ValueError(f"nonfinite must be 'raise' or 'keep'; received {nonfinite!r}")
    strategy, first = model.distribute_strategy, workers.task().index == 0
    with strategy.scope():
        optimizer = optimizer or keras.optimizers.Adam(1e-3)
    step_function = compiled_step(
        model, optimizer, loss, accumulate=accumulate, jit_compile=jit_compile
    )
    told = {"seed": seed, "batch_size": batch_size, "accumulate": accumulate, "carry": carry}
    told = {name: int(value) for name, value in {**told, "number of examples": len(x)}.items()}
    told["carry"] = bool(carry)
    done, rows = checkpoints.restore(model, optimizer, told=told) if checkpoints else (0, [])
    all_at(strategy, done, checkpoints)
    if steps < done:
        raise ValueError(
            f"steps must be at least {done}, where the checkpoint is; received {steps}"
        )
    if rows and done < steps and rows[-1]["step"] % every:  # the end of a shorter run
        rows.pop()
    batches = shuffled_batches(x, y, batch_size=batch_size, seed=seed, carry=carry, start=done)
    losses = []  # the replicas' shares, of the steps since they were last looked at
    show = first and (sys.stderr.isatty() if progress is None else progress)
    bar = tqdm(range(done, steps + 1), desc="training", unit="step", disable=not show)
    for step in bar:
        if 0 < step == done:  # measured before the interruption
            continue
        row_due = step % every == 0 or step == steps
        checkpoint_due = checkpoints and step and (step % checkpoints.every == 0 or step == steps)
        with explained(step, checkpoints):
            if step:
                losses.append(step_function.on_replicas(*next(batches)))
            if row_due or checkpoint_due:
                loss_now = total(strategy, losses, step=step, raises=nonfinite == "raise")
                losses.clear()
            if row_due:
                rows.append({"step": step, "loss": loss_now, **_numbers(measure, model, rows)})
            if checkpoint_due:
                agree(model)
                if first:
                    checkpoints.write(model, optimizer, step=step, rows=rows, told=told)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _numbers(measure, model, rows):
    """What is measured, as numbers that a checkpoint can hold, under the same names each time."""
    found = {name: float(value) for name, value in (measure(model) if measure else {}).items()}
    if rows and (names := set(rows[0]) - {"step", "loss"}) != set(found):
        raise ValueError(f"measure must give {sorted(names)} each time; received {sorted(found)}")
    return found
