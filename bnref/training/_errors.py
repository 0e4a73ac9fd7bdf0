"""What goes wrong while several replicas train, said so that it can be mended."""

import contextlib
import re

import numpy as np
import tensorflow as tf

from bnref import workers
from bnref.functional._replicas import of_all

# TensorFlow's errors on a worker when another has stopped; which one depends on who notices.
_LOST = (
    tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError, tf.errors.InternalError, tf.errors.UnavailableError,
    tf.errors.UnknownError,
)  # fmt: skip

_GONE = tf.errors.UnavailableError


@contextlib.contextmanager
def explained(step, checkpoints):
    """Say in words that another worker has stopped, and how to go on, if an error means that.

    Raises
    ------
    RuntimeError
        Within some 10 seconds, TensorFlow's heartbeat, of the other's end.
    """
    try:
        yield
    except _LOST as error:
        own = workers.task()
        collective = "Collective ops" in str(error) or "heartbeat" in str(error)
        if len(own.addresses) == 1 or not (collective or isinstance(error, _GONE)):
            raise
        kept = checkpoints and checkpoints.steps()
        onward = f"it goes on from step {kept[-1]}" if kept else "it begins anew: no checkpoint"
        raise RuntimeError(
            f"worker {own.index} of {len(own.addresses)} stopped at step {step}, because another "
            f"worker has stopped or cannot be reached. Start all again with the same command; "
            f"{onward}. TensorFlow said: {_sentence(error)}"
        ) from error


def check_same_step(strategy, step, checkpoints):
    """Refuse to go on where the workers found different checkpoints.

    Raises
    ------
    ValueError
        They do not see the same folder.
    """
    if len(workers.task().addresses) == 1 or checkpoints is None:
        return
    steps = of_all(strategy, lambda: tf.constant(float(step))).astype(int)
    if np.ptp(steps):
        raise ValueError(
            f"checkpoints must be in a folder that all workers see; {checkpoints.folder} has "
            f"the last step {', '.join(map(str, steps))} on the replicas 0 to {len(steps) - 1}"
        )


def total_loss(strategy, losses, *, step, raises):
    """The loss of the last step over all replicas; NaN before the first.

    Parameters
    ----------
    losses : list
        The replicas' shares in the steps up to ``step`` that nobody has looked at yet.
    raises : bool
        Whether a loss that is not finite is an error.

    Raises
    ------
    FloatingPointError
        Names the step and the replica where it was so first.
    """
    if not losses:
        return np.nan
    last = float(strategy.reduce("sum", losses[-1], axis=None))
    if np.isfinite(last) or not raises:
        return last
    values = [float(strategy.reduce("sum", shares, axis=None)) for shares in losses]
    first = int(np.argmin(np.isfinite(values)))
    value, number, shares = values[first], step - len(losses) + 1 + first, losses[first]
    spoilt = of_all(strategy, lambda share: tf.cast(~tf.math.is_finite(share), tf.float32), shares)
    names = " and ".join(f"{i}" for i, each in enumerate(spoilt) if each)
    raise FloatingPointError(
        f"the loss is {value} at step {number}, on replica {names} of {len(spoilt)} (from 0); the "
        "weights are spoilt since. Look at that replica's data, lower the learning rate, or keep "
        "such losses with nonfinite='keep'"
    )


def _sentence(error):
    text = re.sub(r"\{\{.*?\}\} ", "", str(error))  # the names of nodes
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    of_others = [line for line in lines if "Collective ops" in line or "heartbeat" in line]
    return (of_others or lines or [type(error).__name__])[0]
