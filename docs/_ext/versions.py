"""Which version of Keras has which defect: the recorded sweep as a table, and in words.

``.. defect-versions::`` is the table, a row for each version, the newest first. `since` says the
same of one report in a line, which the report has word for word; a test compares them.
"""

from html import escape
from itertools import groupby
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "gallery" / "bnref_gallery" / "recorded" / "upstream_versions.csv"
NAMES = {"keras": "Keras", "tf_keras": "tf_keras", "tensorflow": "TensorFlow"}
SHOWS, GONE, ELSE, FAILS = "shows it", "does not", "prints something else", "does not run"
# A class and a sign for each result, and what the line of a report says before the versions.
RESULTS = {
    SHOWS: ("wrong", "✗", "Seen"),
    GONE: ("agrees", "✓", "Not in"),
    ELSE: ("differs", "≠", "Something else is printed by"),
    FAILS: ("absent", "–", "The program does not run in"),
}


def rows(path=None):
    """The provenance, and the rows of the record as dicts, in its order."""
    from bnref_gallery import records

    path = path or RECORD
    provenance, columns = records.read(path)
    lines = zip(*(column.tolist() for column in columns.values()), strict=True)
    found = [dict(zip(columns, line, strict=True)) for line in lines]
    for row in found:
        if row["result"] not in RESULTS:
            raise ExtensionError(f"{path}: unknown result {row['result']!r} of {row['report']}")
    return provenance, found


def since(found):
    """In which versions a report's defect is, and in which it is not, in one line.

    `found` are the rows of one report; the versions of a package stand together, in their order.
    """
    told = {result: [] for result in RESULTS}
    for package, lines in groupby(found, key=lambda row: row["package"]):
        runs = [list(run) for _, run in groupby(lines, key=lambda r: (r["result"], r["words"]))]
        spans = {result: [] for result in RESULTS}
        for run in runs:
            result = run[0]["result"]
            open_ended = result == SHOWS and run is runs[-1]
            spans[result].insert(0, span(run, open_ended, run is runs[0]))
        for result, texts in spans.items():
            if texts:
                told[result].append(f"{NAMES[package]} {', '.join(texts)}")
    return " ".join(
        f"{RESULTS[each][2]}: {'; '.join(texts)}." for each, texts in told.items() if texts
    )


def span(run, open_ended, oldest):
    """The versions of a run of equal results, and the words for them."""
    first, last = run[0]["version"], run[-1]["version"]
    words = f" ({run[0]['words']})" if run[0]["words"] else ""
    if open_ended:
        return f"since {first}{' or earlier' if oldest else ''}{words}"
    before = "in " if run[0]["result"] == SHOWS else ""
    return f"{before}{first} to {last}{words}" if first != last else f"{before}{first}{words}"


def table(found, address):
    """The table as HTML, in a region that scrolls by itself and can be reached by keyboard.

    `address` gives the address of a report.
    """
    columns = list(dict.fromkeys(row["report"] for row in found if row["package"] == "keras"))
    cells = {(row["package"], row["version"], row["report"]): row for row in found}
    versions = list(dict.fromkeys((p, v) for p, v, report in cells if report in columns))
    head = ""
    for name in columns:
        words = escape(name.replace("_", " "))
        head += f'<th scope="col"><a href="{escape(address(name))}">{words}</a></th>'
    body = ""
    for package in dict.fromkeys(package for package, _ in versions):
        for version in [v for p, v in reversed(versions) if p == package]:
            tds = "".join(td(cells.get((package, version, name))) for name in columns)
            body += f'<tr><th scope="row">{NAMES[package]} {escape(version)}</th>{tds}</tr>'
    return (
        '<div class="conformance-scroll" role="region" tabindex="0" '
        'aria-label="Versions and their defects, scrolls sideways">'
        '<table class="table conformance versions"><thead>'
        f'<tr><th scope="col">version</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def td(row):
    """One cell: a sign, the result in words, and what it is that shows."""
    if row is None:
        return "<td>not tried</td>"
    kind, sign, _ = RESULTS[row["result"]]
    more = row["words"] if row["result"] in (SHOWS, GONE) else row["printed"]
    words = "does not show it" if row["result"] == GONE else row["result"]
    text = escape(f"{words}: {more}" if more else words)
    return f'<td class="{kind}"><span class="sign" aria-hidden="true">{sign}</span>{text}</td>'


class Table(SphinxDirective):
    """The table, and how it was recorded."""

    def run(self):
        """Depend on the record."""
        from bnref_gallery import records

        self.env.note_dependency(str(RECORD))
        provenance, found = rows()
        top = "../" * self.env.docname.count("/")
        html = table(found, lambda name: f"{top}upstream/{name}.html")
        line = records.provenance_line(provenance).replace("`", "")
        return [
            nodes.raw("", html, format="html"),
            nodes.paragraph(text=line, classes=["conformance-provenance"]),
        ]


def add_style(app, pagename, templatename, context, doctree):
    """The style of the conformance table, on the page that has this one."""
    if 'class="table conformance versions"' in context.get("body", ""):
        app.add_css_file("conformance.css")


def setup(app):
    """Add the directive."""
    app.add_directive("defect-versions", Table)
    app.connect("html-page-context", add_style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
