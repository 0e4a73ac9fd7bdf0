"""What the doctor found, as a table, as JSON and as one HTML file."""

import json
import shutil
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnref.doctor.checks._channels import deviation, ratio
from bnref.doctor.checks._check import QUESTIONS
from bnref.doctor.checks._statistics import many


@dataclass(frozen=True)
class Finding:
    """One cause that was found.

    Attributes
    ----------
    cause : str
        Its name, that of the check.
    summary : str
        The cause in one sentence.
    question : {1, 2, 3}
        Which is answered wrongly: whose statistics, remembered how, used when.
    layers : tuple of str
        The paths of the norms that it concerns.
    evidence : str
        What was measured.
    fix : str
        Code for Keras.
    page : str
        The page of the site that shows it.
    """

    cause: str
    summary: str
    question: int
    layers: tuple[str, ...]
    evidence: str
    fix: str
    page: str


@dataclass(frozen=True)
class Row:
    """What was measured at one norm: population beside the batches, and how the modes differ.

    Medians over the channels: ``shift``, the distance of the stored mean from the batches' in their
    deviations; ``ratio``, stored over fresh variance. NaN where the norm was not called.
    """

    path: str
    library: str
    whose: str
    remembered: str
    used: str
    shift: float
    ratio: float


@dataclass(frozen=True)
class Report:
    """The result of `bnref.doctor.examine`; prints as a table.

    Attributes
    ----------
    findings : list of Finding
        The likeliest first.
    looked_at : list of str
        The causes that were looked for and are not there.
    undecided : dict of str
        Causes that could be neither found nor excluded, and layers that are not known, with the
        reason.
    norms : list of Row
        Every norm of the model, with what was measured.
    losses : dict of float
        Of the same batches and weights, normalized in three ways, where there are targets: by the
        batch, by the stored population, by the statistics of these batches.
    batches, batch_size : int
        How much was passed through the model.
    """

    findings: list[Finding]
    looked_at: list[str]
    undecided: dict[str, str]
    norms: list[Row]
    losses: dict[str, float]
    batches: int
    batch_size: int

    def __bool__(self):
        """Whether anything was found."""
        return bool(self.findings)

    def __str__(self):
        """The findings, each with its evidence and its fix, as wide as the terminal."""
        width = min(shutil.get_terminal_size((100, 24)).columns, 100)
        lines = [self._headline()]
        for number, finding in enumerate(self.findings, start=1):
            lines += ["", *_paragraph(f"{number}. ", finding.summary, width)]
            lines += _paragraph("   ", f"{_named(finding.layers)}: {finding.evidence}.", width)
            lines += [f"       {line}" for line in finding.fix.splitlines()]
            lines.append(f"   question {finding.question}, {QUESTIONS[finding.question]}")
            lines.append(f"   page: {finding.page}")
        if not self.findings:
            looked = f"Looked for and not there: {', '.join(self.looked_at)}."
            lines += ["", *_paragraph("", looked, width)]
        if self.losses:
            losses = ", ".join(f"{each:.3g} {name}" for name, each in self.losses.items())
            lines += ["", *_paragraph("", f"Loss of the same batches: {losses}.", width)]
        for name, reason in self.undecided.items():
            lines += _paragraph("", f"Undecided: {name}, because {reason}.", width)
        return "\n".join(lines)

    __repr__ = __str__

    def _headline(self):
        found = f"{many(len(self.findings), 'cause')} found" if self.findings else "nothing found"
        norms = many(len(self.norms), "batch norm")
        return f"{norms}, {many(self.batches, 'batch', 'es')} of {self.batch_size}: {found}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, as dicts, lists, numbers and strings; what is not finite becomes None."""
        return _plain(asdict(self))

    def to_json(self, path: str | Path | None = None) -> str:
        """The same as JSON text, written to ``path`` as well if it is given."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_html(self, path: str | Path | None = None) -> str:
        """One HTML page with its figures, written to ``path`` as well if it is given."""
        from bnref.doctor._html import page  # not needed by those who print

        text = page(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def _repr_html_(self):
        from bnref.doctor._html import fragment

        return fragment(self)


def row_of(case: Any, norm: Any) -> Row:
    """What was measured at one norm of a case."""
    shift = times = float("nan")
    if norm in case.fresh:
        mean, variance = case.fresh[norm]
        stored = np.asarray(norm.mean, np.float64), np.asarray(norm.variance, np.float64)
        shift = float(np.median(np.abs(stored[0] - mean) / deviation(variance)))
        times = float(np.median(ratio(stored[1], variance)))
    return Row(norm.path, norm.library, norm.whose, norm.remembered, norm.used, shift, times)


def losses_of(case: Any) -> dict[str, float]:
    """The losses of the three passes, of those that were made."""
    names = {
        "training": "in training mode",
        "inference": "at inference",
        "refreshed": "by these batches' statistics",
    }
    made = {name: vars(case).get(name) for name in names}
    return {
        names[name]: each.loss
        for name, each in made.items()
        if each is not None and each.loss is not None
    }


def _named(layers):
    """The first paths, and how many more there are."""
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return ", ".join(layers[:3]) + more


def _paragraph(start, text, width):
    after = " " * len(start)
    return textwrap.wrap(text, width, initial_indent=start, subsequent_indent=after)


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
