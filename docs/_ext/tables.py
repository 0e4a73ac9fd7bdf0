"""The tables of several extensions: cells with verdicts that scroll sideways, and lists of rows.

A table of verdicts is HTML, because docutils has neither rows with headers nor signs that are for
the eye only. A list of rows is reStructuredText, so that references in it are resolved.
"""

from html import escape

from docutils import nodes
from sphinx.errors import ExtensionError


def scrolling(name, corner, columns, rows, kind=""):
    """A table in a region that scrolls by itself and can be reached by keyboard, as a node.

    `columns` are the cells of its head as HTML; `rows` are pairs of a header and of cells.
    """
    head = "".join(f'<th scope="col">{each}</th>' for each in (corner, *columns))
    body = "".join(
        f'<tr><th scope="row">{header}</th>{"".join(cells)}</tr>' for header, cells in rows
    )
    html = (
        '<div class="conformance-scroll" role="region" tabindex="0" '
        f'aria-label="{name}, scrolls sideways"><table class="table conformance{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return nodes.raw("", html, format="html")


def cell(verdict, sign, text, heard="", address=""):
    """A cell: a sign for the eye, the verdict's words for those who hear the page, the text."""
    html = f'<span class="sign" aria-hidden="true">{sign}</span>'
    if heard:
        html += f'<span class="heard">{heard}: </span>'
    html += escape(text)
    return f'<td class="{verdict}">{link(html, address) if address else html}</td>'


def link(html, address):
    """A link around HTML."""
    return f'<a href="{escape(address)}">{html}</a>'


def list_table(directive, kind, rows):
    """A table whose cells are reStructuredText; the first row is its head."""
    text = [".. list-table::", "   :header-rows: 1", f"   :class: {kind}", ""]
    for row in rows:
        for number, content in enumerate(row):
            first, *more = content.splitlines()
            text += [f"   {'  -' if number else '* -'} {first}"]
            text += [f"       {line}".rstrip() for line in more]
    return directive.parse_text_to_nodes("\n".join(text))


def recorded(path, column, known):
    """The provenance of a recorded file, and its rows as dicts; a column says what is `known`."""
    from bnref_gallery import records

    provenance, columns = records.read(path)
    lines = zip(*(each.tolist() for each in columns.values()), strict=True)
    rows = [dict(zip(columns, line, strict=True)) for line in lines]
    for row in rows:
        if row[column] not in known:
            raise ExtensionError(
                f"{path}: unknown {column} {row[column]!r}; known are {', '.join(known)}; in {row}"
            )
    return provenance, rows


def recording(provenance, more=""):
    """A paragraph that says how a file was recorded."""
    from bnref_gallery import records

    text = records.provenance_line(provenance).replace("`", "") + more
    return nodes.paragraph(text=text, classes=["conformance-provenance"])


def add_style(app, pagename, templatename, context, doctree):
    """The style of a scrolling table, on the pages that have one."""
    if 'class="table conformance' in context.get("body", ""):
        app.add_css_file("conformance.css")


def setup(app):
    """Look for tables on each page."""
    app.connect("html-page-context", add_style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
