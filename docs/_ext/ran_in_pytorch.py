"""The line below Wrong and Right for PyTorch: what each did, when it was run, by the record.

The build has no PyTorch, so it cannot run this code: ``gallery/results/run_pytorch.py`` did, and
recorded with each value the digest of the code. Code that is not on record fails the build.
"""

import tables
from docutils import nodes
from project import PROPS, depend_on
from sphinx.util import logging

from bnref_gallery import pytorch_tabs

logger = logging.getLogger(__name__)
RECORD = PROPS / "recorded" / "pytorch.csv"
SMALL = 0.0001


def say(app, doctree):
    """Add the line below the two sides, once `fixes` has put them beside each other."""
    for pair in list(doctree.findall(nodes.container)):
        if pair.get("library") != pytorch_tabs.LIBRARY:
            continue
        depend_on(app.env, RECORD)
        provenance, every = tables.recorded(RECORD, "side", pytorch_tabs.SIDES)
        page = app.env.docname.removeprefix("gallery/")
        rows = [row for row in every if row["page"] == page]
        if {(row["side"], row["digest"]) for row in rows} == digests(pair):
            line = nodes.paragraph(text=told(provenance, rows), classes=["fix-ran"])
            pair.parent.insert(pair.parent.index(pair) + 1, line)
        else:
            logger.warning(
                "the code for PyTorch is not what was run: python gallery/results/run_pytorch.py",
                location=pair,
            )


def digests(pair):
    """The sides and the digests of their code, as it stands on the page."""
    return {
        (side, pytorch_tabs.digest(code.astext()))
        for side, column in zip(pytorch_tabs.SIDES, pair, strict=False)
        for code in column.findall(nodes.literal_block)
    }


def told(provenance, rows):
    """The line: version, day, what was measured, and both values with their spread."""
    version = provenance["torch"].rpartition("; ")[2].partition("+")[0]
    day = provenance["date"].rpartition("; ")[2][:10]
    values = {side: [r["value"] for r in rows if r["side"] == side] for side in pytorch_tabs.SIDES}
    wrong, right = (spread(each, rows[0]["unit"]) for each in values.values())
    what, seeds = rows[0]["what"], len(values["Wrong"])
    return (
        f"Run with PyTorch {version} on {day}, {seeds} seeds. {what[0].upper()}{what[1:]}: "
        f"{wrong} with Wrong, {right} with Right."
    )


def spread(values, unit):
    """The mean, and the least and the greatest where they are not written alike."""
    mean, least, greatest = (
        written(each, unit) for each in (sum(values) / len(values), min(values), max(values))
    )
    return f"{mean}{unit}" + (f" ({least} to {greatest})" if least != greatest else "")


def written(value, unit):
    """A number with the digits that a reader needs; what rounding leaves is no number."""
    if 0 < value < SMALL:
        return f"less than {SMALL}"
    return f"{value:.0f}" if unit == " %" else f"{value:.2g}"


def setup(app):
    """Speak after `fixes` has arranged the sides."""
    app.setup_extension("fixes")
    app.connect("doctree-read", say, priority=410)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
