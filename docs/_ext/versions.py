"""Which version of Keras has which defect: ``.. defect-versions::`` is the recorded sweep."""

from html import escape

import tables
from project import PROPS, depend_on
from sphinx.util.docutils import SphinxDirective

from bnref_gallery.upstream_reports import NAMES
from bnref_gallery.upstream_rules import ELSE, FAILS, GONE, SHOWS

RECORD = PROPS / "recorded" / "upstream_versions.csv"
# The class and the sign of each result, as in the conformance table, and its words.
RESULTS = {
    SHOWS: ("wrong", "✗", "shows it"),
    GONE: ("agrees", "✓", "does not show it"),
    ELSE: ("differs", "≠", "prints something else"),
    FAILS: ("absent", "–", "does not run"),
}


def table(found, address):
    """The table: reports across, versions down, the newest of a package first.

    `found` are the rows of the record; `address` gives the address of a report.
    """
    reports = list(dict.fromkeys(row["report"] for row in found if row["package"] == "keras"))
    results = {(row["package"], row["version"], row["report"]): row for row in found}
    versions = {}
    for package, version, report in results:
        if report in reports:
            versions.setdefault(package, {})[version] = None
    columns = [tables.link(escape(r.replace("_", " ")), address(r)) for r in reports]
    rows = [
        (f"{NAMES[package]} {escape(version)}",
         [cell(results.get((package, version, report))) for report in reports])
        for package, of_package in versions.items()
        for version in reversed(of_package)
    ]  # fmt: skip
    name = "Versions and their defects"
    return tables.scrolling(name, "version", columns, rows, kind=" versions")


def cell(row):
    """One cell: the result in words, and what it is that shows or is printed."""
    if row is None:
        return "<td>not tried</td>"
    kind, sign, words = RESULTS[row["result"]]
    more = row["words"] if row["result"] in (SHOWS, GONE) else row["printed"]
    return tables.cell(kind, sign, f"{words}: {more}" if more else words)


class Table(SphinxDirective):
    """The table, and how it was recorded."""

    def run(self):
        """Link to the reports from wherever the page is."""
        depend_on(self.env, RECORD)
        provenance, found = tables.recorded(RECORD, "result", RESULTS)
        top = "../" * self.env.docname.count("/")
        return [
            table(found, lambda name: f"{top}upstream/{name}.html"),
            tables.recording(provenance),
        ]


def setup(app):
    """Add the directive."""
    app.setup_extension("tables")
    app.add_directive("defect-versions", Table)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
