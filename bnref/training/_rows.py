"""The rows of a history, and the steps between them."""

import sys

import numpy as np
from tqdm import tqdm

from bnref import workers


def steps_left(done, steps, progress, *, stopped):
    """The numbers of the steps that are left, shown as a progress bar if that is wanted.

    Step 0 is before the first; the step of a checkpoint has its row in it.
    """
    shown = sys.stderr.isatty() if progress is None else progress
    shown = shown and workers.task().index == 0
    left = range(0) if stopped else range(done + 1 if done else 0, steps + 1)
    return tqdm(left, "training", initial=done, total=steps + 1, unit="step", disable=not shown)


def rows_to_go_on_from(rows, done, *, steps, every):
    """The rows of a checkpoint of step ``done``, for a run of so many steps.

    Raises
    ------
    ValueError
        The checkpoint has taken more steps.
    """
    if steps < done:
        raise ValueError(
            f"steps must be at least {done}, where the checkpoint is; received {steps}"
        )
    ended_there = rows and done < steps and rows[-1]["step"] % every  # a shorter run
    return rows[:-1] if ended_there else list(rows)


def measured(run, measure, rows):
    """What `measure` returns, as numbers that a checkpoint can hold, after a check of names."""
    found = {} if measure is None else measure(run)
    found = {name: float(value) for name, value in found.items()}
    if rows and (names := set(rows[0]) - {"step", "loss"}) != set(found):
        raise ValueError(f"measure must give {sorted(names)} each time; received {sorted(found)}")
    return found


def as_columns(rows):
    """An array for each name."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
