"""The doctor while ``fit`` runs: a finding is said the first time that it is sure."""

import time
import warnings
from typing import Any

import keras

from bnref.doctor._batches import KEPT
from bnref.doctor._examine import examine
from bnref.doctor._report import Finding, Report

STEPS_OF_A_LOOK = 4 * KEPT  # what the first look is expected to cost, in training steps
# Where steps take hardly any time, tracing is what a look costs, and so is the first step of `fit`:
# a look took 0.9 to 2.2 times as long, on perceptrons of 2 and 16 norms and on three convolutions.
FIRST_STEPS_OF_A_LOOK = 4
# No two looks take equally long: of six in one training the dearest took 1.3 times the cheapest.
MARGIN = 1.5
SHORTEST = 5.0  # seconds


class Watch(keras.callbacks.Callback):
    """A Keras callback that examines the model between the epochs of ``fit``.

    It costs less than ``share`` of the time of training: it waits for as many epochs as pay for one
    look; the first is taken to cost what 4 training steps of each of 16 batches do, or 4 times what
    the first step of ``fit`` does, which is traced, or 5 seconds, whichever is most; each later one
    half as much again as the dearest before it. A cause is said as a warning when two looks in a
    row have found it, and once only; after the last epoch one look is enough, and is not counted.

    Parameters
    ----------
    data, validation
        As for `examine`: the data as training sees them, in that order.
    share : float, 0 < share ≤ 1
        The part of the time that examining may take.
    **options
        As for `examine`: ``batch_size``, ``loss``.

    Attributes
    ----------
    findings : list of Finding
        What was said, in this order.
    report : Report or None
        The last one.

    Raises
    ------
    ValueError
        `share` is no number between 0 and 1; data that do not fit, at the first look.

    Examples
    --------
    ``model.fit(x, y, callbacks=[bnref.doctor.Watch((x, y))])``
    """

    def __init__(self, data: Any, validation: Any = None, *, share: float = 0.03, **options: Any):
        super().__init__()
        if isinstance(share, bool) or not isinstance(share, float | int) or not 0 < share <= 1:
            raise ValueError(f"share must be a number above 0, at most 1; received {share!r}")
        self.data, self.validation = data, validation
        self.share, self.options = share, options
        self.findings: list[Finding] = []
        self.report: Report | None = None
        self._suspected: set[str] = set()
        self._spent = self._dearest = self._first_step = 0.0
        self._steps = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count the steps, and time the first."""
        self._steps += 1
        if self._steps == 1:
            self._first_step = time.monotonic() - self._began

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Look, if what training has taken so far pays for it."""
        elapsed = time.monotonic() - self._began - self._spent
        step = elapsed / max(1, self._steps)
        expected = MARGIN * self._dearest or max(
            SHORTEST, step * STEPS_OF_A_LOOK, self._first_step * FIRST_STEPS_OF_A_LOOK
        )
        if self._spent + expected <= self.share * elapsed:
            self._look(sure=False)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Look once more; this look is not counted."""
        self._look(sure=True)

    def _look(self, *, sure):
        began = time.monotonic()
        self.report = examine(self.model, self.data, self.validation, **self.options)
        cost = time.monotonic() - began
        self._dearest = max(self._dearest, cost)
        self._spent += cost
        said = {each.cause for each in self.findings}
        for finding in self.report.findings:
            if finding.cause not in said and (sure or finding.cause in self._suspected):
                self.findings.append(finding)
                warnings.warn(
                    f"{finding.summary}: {finding.evidence}. To mend it:\n{finding.fix}",
                    stacklevel=2,
                )
        self._suspected = {each.cause for each in self.report.findings}
