"""Checkpoints of a training run: all that it needs to go on as if nothing had happened."""

import json
import os
import re
import shutil
import warnings
from pathlib import Path

import tensorflow as tf

from bnref._checks import whole_number

_NOTHING_YET: dict = {"rows": [], "callbacks": {}}


class Checkpoints:
    """Where a `Run` keeps its state, and how often.

    A checkpoint holds the model's variables (weights, population statistics, the random state of
    dropout), the optimizer's, the step and the history so far; the order of the data follows from
    seed and step. A learning rate is one of the optimizer's variables, unless it is a schedule: the
    checkpoint's counts, with a warning where another was asked for. Of several replicas it holds
    the first's population, which all take over when it is written, so that a run that is resumed
    goes on like one that was not interrupted. It is TensorFlow's own format, with a checksum of
    every tensor; the first worker writes it, and all must see the folder.

    Parameters
    ----------
    folder : path
        Made if need be.
    every : int, ≥ 1
        Steps between two checkpoints; the last step has one too.
    keep : int, ≥ 1
        How many there are at a time; with 2 or more a spoilt one costs `every` steps.

    Raises
    ------
    ValueError
        `every` or `keep` below 1, or `folder` is a file.
    """

    def __init__(self, folder: str | os.PathLike, *, every: int = 100, keep: int = 2):
        self.folder = Path(folder)
        self.every, self.keep = whole_number("every", every), whole_number("keep", keep)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"folder must be a folder, or not exist yet; {self.folder} is a file")

    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder, in order, spoilt ones included."""
        found = (re.fullmatch(r"step-(\d+)\.index", p.name) for p in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def due(self, step: int, *, last: int) -> bool:
        """Whether step `step` has a checkpoint, in a run of `last` steps."""
        return step > 0 and (step % self.every == 0 or step == last)


class BoundCheckpoints:
    """The checkpoints of one run: its variables are looked up once, for all of them.

    Kept beside Keras's ``BackupAndRestore``, which keeps no history, no order of the data, and one
    checkpoint only.

    Parameters
    ----------
    checkpoints : Checkpoints
    run : bnref.training.Run
    """

    def __init__(self, checkpoints, run):
        self.folder, self.settings, self.optimizer = checkpoints.folder, run.settings, run.optimizer
        self.steps, self.progress = checkpoints.steps, _Progress()
        owners = {"model": run.model, "optimizer": run.optimizer}
        variables = {name: [v.value for v in each.variables] for name, each in owners.items()}
        self.state = tf.train.Checkpoint(**variables, progress=self.progress)
        self.manager = tf.train.CheckpointManager(
            self.state, str(self.folder), max_to_keep=checkpoints.keep, checkpoint_name="step"
        )

    def restore(self):
        """Put the newest sound checkpoint into the run's variables; return its step and progress.

        The progress is a dictionary of the history's "rows" and what the "callbacks" had come to.
        Nothing is touched, and 0 returned, if there is none. One that cannot be read is warned of,
        and the one before it used.

        Raises
        ------
        ValueError
            It is of another model or optimizer, or of a run with other settings.
        OSError
            There are checkpoints, and none can be read.
        """
        for step in reversed(self.steps()):
            path = str(self.folder / f"step-{step}")
            try:
                tensors = _read(path)
            except Exception as error:  # a spoilt file can raise anything here
                warnings.warn(
                    f"the checkpoint {path} cannot be read ({_reason(error)}); the one before it "
                    "is used",
                    stacklevel=3,
                )
                continue
            _check_same(path, tensors, self.state, self.settings)
            asked = _learning_rate(self.optimizer)
            self.state.restore(path).assert_existing_objects_matched().expect_partial()
            if asked != (kept := _learning_rate(self.optimizer)):
                warnings.warn(
                    f"the learning rate is {kept:g}, as in the checkpoint {path}, not {asked:g}",
                    stacklevel=3,
                )
            return step, {**_NOTHING_YET, **json.loads(self.progress.text)}
        if self.steps():
            raise OSError(
                f"no checkpoint in {self.folder} can be read; delete the folder to begin anew"
            )
        return 0, _NOTHING_YET

    def write(self, *, step, **progress):
        """Write one; if that fails, the ones before it stay as they are.

        Raises
        ------
        OSError
            It could not be written, for want of space for instance.
        """
        self.progress.text = json.dumps({**progress, "settings": self.settings})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            # What was written of it takes up space, of which there may be too little.
            shutil.rmtree(self.folder / f"step-{step}_temp", ignore_errors=True)
            for part in self.folder.glob(f"step-{step}.*"):
                part.unlink(missing_ok=True)
            kept = (
                f"the last one is of step {max(self.steps())}" if self.steps() else "there is none"
            )
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder}: "
                f"{_reason(error)}; {kept}"
            ) from error


class _Progress(tf.train.experimental.PythonState):
    """The history and the settings of a run, as JSON."""

    text = "{}"

    def serialize(self):
        return self.text

    def deserialize(self, string_value):
        self.text = tf.compat.as_text(string_value)


def _learning_rate(optimizer):
    """The optimizer's learning rate; None if it is a schedule, which is no variable."""
    rates = [each for each in optimizer.variables if each.name == "learning_rate"]
    return float(rates[0].numpy()) if rates else None


def _reason(error):
    """The first line of TensorFlow's message, without the names of its nodes."""
    return re.sub(r"\{\{.*?\}\} ", "", str(error).splitlines()[0])


def _read(path):
    """Read every tensor of a checkpoint, so that TensorFlow compares its checksum."""
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def _check_same(path, tensors, state, settings):
    """Refuse to go on from another model's checkpoint, or with other data."""
    for name in ("model", "optimizer"):
        shapes = [list(each.shape) for each in getattr(state, name)]
        key = "{}/{}/.ATTRIBUTES/VARIABLE_VALUE".format
        found = [tensors[key(name, i)] for i in range(len(tensors)) if key(name, i) in tensors]
        if shapes != [list(each.shape) for each in found]:
            raise ValueError(
                f"{name} must have the variables of the checkpoint {path}, {len(found)} in number; "
                f"received one with {len(shapes)}, or with others"
            )
    before = json.loads(tensors["progress/.ATTRIBUTES/py_state"])
    before = before.get("settings") or before["told"]  # as it was called in version 0.1
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(
                f"{name} must be {before.get(name)!r}, as in the run whose checkpoint is {path}; "
                f"received {value!r}"
            )
