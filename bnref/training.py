"""The training loop of the pages: seeded batches, one compiled step, a history.

The weights come from Keras's random state, so a run is repeated by
``keras.utils.set_random_seed(seed)``, then building the model, then ``train(..., seed=seed)``.
"""

import sys
from collections.abc import Callable
from numbers import Integral

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

__all__ = ["compiled_step", "evaluate", "shuffled_batches", "train"]


def train(
    model, x, y, *, steps, batch_size, optimizer=None, loss=None, seed=0, measure=None, every=10,
    progress=None,
):  # fmt: skip
    """Train ``model`` for a number of steps and return what was measured on the way.

    Parameters
    ----------
    model : keras.Model
    x : array, shape (N, ...), finite
    y : array, shape (N, ...)
        Class numbers for the default loss.
    steps, batch_size : int, ≥ 1
        `batch_size` at most N; what is left over at the end of an epoch is shuffled into the next.
    optimizer : keras.optimizers.Optimizer, optional
        Adam with a learning rate of 0.001 unless given.
    loss : callable (y, output) -> losses, optional
        Sparse softmax cross-entropy on logits unless given.
    seed : int
        Of the order of the examples.
    measure : callable (model) -> dict of floats, optional
        Called before the first step, after every `every` steps and after the last.
    every : int, ≥ 1
    progress : bool, optional
        Show a bar on standard error; unless given, when that is a terminal.

    Returns
    -------
    dict of numpy arrays
        "step" and "loss" (the training loss of the step before, NaN at step 0), and what `measure`
        gave, one entry for every time it was called. A loss that is not finite is kept as it is.

    Raises
    ------
    ValueError
        An argument out of range, `x` and `y` of different lengths, `x` not finite: before
        anything is trained.
    """
    _check(x, y, steps=steps, batch_size=batch_size, every=every)
    step_function = compiled_step(model, optimizer or keras.optimizers.Adam(1e-3), loss)
    rows, last_loss = [], np.nan
    show = sys.stderr.isatty() if progress is None else progress
    batches = shuffled_batches(x, y, batch_size=batch_size, seed=seed)
    for step in tqdm(range(steps + 1), desc="training", unit="step", disable=not show):
        if step:
            last_loss = step_function(*next(batches))
        if step % every == 0 or step == steps:
            measured = measure(model) if measure else {}
            rows.append({"step": step, "loss": float(last_loss), **measured})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def shuffled_batches(x, y, *, batch_size, seed):
    """Batches without end, each epoch in a new order; the order depends on ``seed`` alone."""
    random, order = np.random.default_rng(seed), np.empty(0, int)
    while True:
        while len(order) < batch_size:
            order = np.concatenate([order, random.permutation(len(x))])
        chosen, order = order[:batch_size], order[batch_size:]
        yield tf.constant(x[chosen]), tf.constant(y[chosen])


def evaluate(model, x, y, *, batch_size=500):
    """Mean softmax cross-entropy and accuracy at inference, every example counted once.

    Parameters
    ----------
    model : keras.Model
        From `x` to logits, shape (N, classes).
    x, y : array, shapes (N, ...) and (N,)
    batch_size : int
        How many are passed at a time; it does not change the result.

    Returns
    -------
    loss, accuracy : float
    """
    _check(x, y, batch_size=min(batch_size, len(x)))
    logits = tf.concat(
        [model(x[i : i + batch_size], training=False) for i in range(0, len(x), batch_size)], 0
    )
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
    return float(tf.reduce_mean(losses)), float(np.mean(np.argmax(logits, -1) == y))


def compiled_step(model, optimizer, loss: Callable | None = None):
    """One step of training as a function of a batch, for loops that `train` does not fit.

    Parameters
    ----------
    model : keras.Model
    optimizer : keras.optimizers.Optimizer
        Built here for the model's variables.
    loss : callable (y, output) -> losses, optional
        Sparse softmax cross-entropy on logits unless given.

    Returns
    -------
    callable (x, y) -> scalar tensor
        Moves the weights once, and the populations; returns the mean loss before.
    """
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    optimizer.build(model.trainable_variables)

    @tf.function(reduce_retracing=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(y, model(x, training=True)))
        gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return value

    return step


def _check(x, y, **counts):
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a whole number, at least 1; received {count!r}")
    if len(x) != len(y):
        raise ValueError(f"x and y must be equally long; received {len(x)} and {len(y)}")
    if counts["batch_size"] > len(x):
        raise ValueError(f"batch_size must be at most {len(x)}; received {counts['batch_size']}")
    if not np.isfinite(x).all():
        bad = np.sum(~np.isfinite(x))
        raise ValueError(f"x must be finite; received {bad} values that are not")
