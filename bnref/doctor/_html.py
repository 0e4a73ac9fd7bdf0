"""The report as HTML, with its figures, in one file that asks no other for anything."""

from html import escape
from typing import Any

import numpy as np

from bnref.doctor.checks._check import QUESTIONS

STYLE = """
.bnref-doctor { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff;
  max-width: 60rem; padding: 1rem; overflow-wrap: anywhere; }
.bnref-doctor table { border-collapse: collapse; width: 100%; }
.bnref-doctor th, .bnref-doctor td { text-align: left; padding: .3rem .6rem; vertical-align: top;
  border-bottom: 1px solid #ccc; }
.bnref-doctor pre { background: #f3f3f3; padding: .6rem; overflow-x: auto; }
.bnref-doctor .wide { overflow-x: auto; overflow-wrap: normal; }
@media (prefers-color-scheme: dark) {
  .bnref-doctor { color: #e6e6e6; background: #1c1c1c; }
  .bnref-doctor pre { background: #2a2a2a; }
  .bnref-doctor th, .bnref-doctor td { border-color: #555; }
}
"""


def page(report: Any) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Batch norm examined</title></head>\n<body>{fragment(report)}</body></html>\n"
    )


def fragment(report: Any) -> str:
    """What a notebook shows: the findings, the two figures, what was looked at."""
    parts = [f"<style>{STYLE}</style>", '<div class="bnref-doctor">']
    parts.append(f"<h2>{escape(report._headline())}</h2>")
    parts += [_finding(number, each) for number, each in enumerate(report.findings, start=1)]
    parts.append(_modes(report.losses))
    parts.append(_figures(report))
    names = ", ".join(report.looked_at)
    parts.append(f"<p>Looked for and not there: {escape(names)}.</p>")
    if report.undecided:
        items = "".join(
            f"<li>{escape(name)}: {escape(reason)}</li>"
            for name, reason in report.undecided.items()
        )
        parts.append(f"<p>Undecided:</p><ul>{items}</ul>")
    return "\n".join([*parts, "</div>"])


def _finding(number, finding):
    layers = ", ".join(finding.layers)
    return (
        f"<h3>{number}. {escape(finding.summary)}</h3>"
        f"<p>{escape(finding.evidence)}.</p>"
        f"<pre><code>{escape(finding.fix)}</code></pre>"
        f"<p>Question {finding.question}, {QUESTIONS[finding.question]} Layers: {escape(layers)}. "
        f"Page: {escape(finding.page)}.</p>"
    )


def _modes(losses):
    """The same batches and weights, normalized in three ways: a bar for the loss of each."""
    if not losses:
        return ""
    largest = max((each for each in losses.values() if np.isfinite(each)), default=0) or 1
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{_bar(each / largest, alarm=2)} {_number(each)}</td></tr>"
        for name, each in losses.items()
    )
    head = "<tr><th>Same batches, same weights</th><th>Loss</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _figures(report):
    """Each norm with two bars: how far its population is from the batches'."""
    rows = []
    for row in report.norms:
        mean, ratio = _number(row.shift), _number(row.ratio)
        change = abs(np.log(row.ratio)) if row.ratio > 0 else float("nan")
        rows.append(
            f"<tr><td>{escape(row.path)}</td><td>{escape(row.whose)}</td>"
            f"<td>{_bar(row.shift / 2)} {mean}</td><td>{_bar(change / 2)} {ratio}</td></tr>"
        )
    head = (
        "<tr><th>Norm</th><th>Whose statistics</th><th>Population's mean, deviations off</th>"
        "<th>Population's variance over the batches'</th></tr>"
    )
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _bar(share, alarm=0.25):
    """A bar of up to 100 pixels, of another colour where the share is above ``alarm``."""
    width = 100 * min(1.0, share) if np.isfinite(share) else 0
    colour = "#b3261e" if share > alarm else "#3b6ea8"
    return (
        '<svg width="102" height="10" role="presentation">'
        f'<rect width="{width:.1f}" height="10" fill="{colour}"/>'
        '<rect x="0.5" y="0.5" width="101" height="9" fill="none" stroke="#888"/></svg>'
    )


def _number(value):
    return f"{value:.3g}" if np.isfinite(value) else "not known"
