"""Every check, asked of one model and its data."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bnref._checks import whole_number
from bnref.doctor._batches import read
from bnref.doctor._case import Case
from bnref.doctor._keeping import kept
from bnref.doctor._report import Finding, Report, losses_of, row_of
from bnref.doctor.checks import CHECKS, Found, Undecided


def examine(
    model: Any,
    data: Any,
    validation: Any = None,
    *,
    batch_size: int = 32,
    loss: Callable | str | None = None,
    only: Iterable[str] | None = None,
) -> "Report":
    """Find out what is wrong with the batch norm of a model, and how to mend it.

    Every cause in `bnref.doctor.CHECKS` is looked for, by passes of some batches through the model.
    Nothing is trained, and the model comes back as it was, to the bit.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        Of any make, built, with batch norms of `bnref.layers`, Keras or tf_keras.
    data : array, tuple or dict of arrays, tf.data.Dataset, or iterable of batches
        The training data, **in the order in which training sees them**, scaled and augmented as
        there: a pair (x, y) of arrays, inputs alone, or batches as ``model.fit`` takes them. Up to
        16 batches are used, spread over arrays, or over the first 256 batches of an iterable.
    validation : as `data`, optional
        What the model is judged by.
    batch_size : int
        The batch that training uses, for arrays; an iterable has its own.
    loss : callable or str, optional
        ``loss(y, outputs)``, or the name of one of Keras's. Unless given that of
        ``model.compile``, else cross entropy or the squared error, whichever fits the targets.
    only : collection of str, optional
        Names of `CHECKS`: these causes alone are looked for, which takes the time of their own
        passes. All unless given.

    Returns
    -------
    Report
        Its ``findings``, the likeliest first; what was looked at and found well; and what could not
        be decided, with the reason.

    Raises
    ------
    ValueError
        No model, not built, without batch norm; data that are empty, not finite or do not fit the
        model; an unknown name in `only`. The message names the argument.

    Notes
    -----
    It costs four passes of the batches in most cases, one more for dropout and for targets, each a
    third of a training step. What is put back is not copied before it changes; but the model is
    saved to a temporary file and loaded once, which takes the memory of a second one for a moment.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    >>> x = np.random.default_rng(0).normal(3, 1, (256, 4)).astype("float32")
    >>> [finding.cause for finding in examine(model, x).findings]
    ['never_updated']
    """
    whole_number("batch_size", batch_size)
    names = list(CHECKS if only is None else only)
    if unknown := [each for each in names if each not in CHECKS]:
        raise ValueError(f"only must hold names of CHECKS; received {unknown[0]!r}")
    _check_model(model)
    batches = read(model, "data", data, batch_size)
    others = None if validation is None else read(model, "validation", validation, batch_size)
    with kept(model), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        case = Case(model, batches, others, loss)
        if not case.norms:
            raise ValueError("model must have a batch norm; found none")
        _check_fit(case)
        return _asked(case, names)


def _asked(case, names: list[str]) -> "Report":
    """Ask every check that no finding explains."""
    findings: list[Finding] = []
    undecided, looked_at = {}, []
    for name in names:
        check = CHECKS[name]
        if any(each.cause in check.unless for each in findings):
            continue
        answer = check.measure(case)
        if isinstance(answer, Found):
            findings.append(
                Finding(name, check.cause, check.question, answer.layers, answer.evidence,
                        answer.fix, check.page)
            )  # fmt: skip
        elif isinstance(answer, Undecided):
            undecided[name] = answer.reason
        else:
            looked_at.append(name)
    for norm in case.unknown:
        package = f"{type(norm.layer).__name__} of {norm.library}"
        undecided[norm.path] = f"{package} has a moving_mean and is no batch norm known here"
    rows = [row_of(case, norm) for norm in case.norms]
    first = case.batches[0].size
    return Report(
        findings, looked_at, undecided, rows, losses_of(case), len(case.batches), first
    )  # fmt: skip


def _check_model(model):
    if not hasattr(model, "_flatten_layers"):
        raise ValueError(f"model must be a Keras model; received {type(model).__name__}")
    if not getattr(model, "built", True):
        raise ValueError("model must be built: call it, or fit it, once")


def _check_fit(case):
    """One pass, so that data that do not fit end with a sentence that says so."""
    batch = case.batches[0]
    try:
        outputs = case.first.outputs
    except Exception as error:
        shapes = ", ".join(str(getattr(each, "shape", "?")) for each in batch.x)
        raise ValueError(
            f"data must be what the model takes; a batch of shape {shapes} failed with: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if batch.y is not None:
        try:
            case.loss and case.loss(batch.y, outputs)
        except Exception as error:
            raise ValueError(
                "loss must fit the targets and outputs of the model; it failed with: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
