"""Defects of the frameworks, as ``gallery/bnref_gallery/defects.toml`` has them.

Under the title of a page that asserts one, and of the report on it, stands on which versions the
defect was seen and since which it is gone, so that ``fixed_in`` in that file is the one thing to
change. ``.. defects::`` becomes the table of all. A defect without a report or a page, and a report
without a defect, are warnings, and so errors.
"""

from docutils import nodes
from project import depend_on, first_section, link_to
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from tables import list_table

from bnref_gallery import defects as props
from bnref_gallery.upstream_reports import NAMES

logger = logging.getLogger(__name__)
REPORTS = "upstream/"


def package_of(defect):
    """The package at fault, as people write it."""
    return NAMES.get(defect.package, defect.package)


def seen(defect):
    """The versions on which it was seen, in words."""
    versions = defect.seen_on.items()
    return " with ".join(f"{NAMES.get(each, each)} {number}" for each, number in versions)


def note(defect, about_figures=""):
    """Where the defect was seen, or since when it is gone, as a paragraph."""
    if not defect.fixed_in:
        text = f"Seen on {seen(defect)}. Not fixed in a version known to this site."
        return nodes.paragraph(text=text)
    fixed = nodes.strong(text=f"Fixed in {package_of(defect)} {defect.fixed_in}.")
    text = f" The text says what {seen(defect)} did{about_figures}."
    return nodes.paragraph("", "", fixed, nodes.Text(text))


def note_on_page(env, defect):
    """The paragraph for a page that asserts the defect."""
    report = link_to(env, REPORTS + defect.name, "Report")
    paragraph = note(defect, "; the figures are the installed version's")
    paragraph += [nodes.Text(" "), report, nodes.Text(".")]
    return paragraph


def note_on_report(env, defect):
    """The paragraph for the report on the defect."""
    paragraph = note(defect)
    paragraph += nodes.Text(" Asserted by ")
    for number, page in enumerate(defect.pages):
        paragraph += [nodes.Text(", " if number else ""), link_to(env, f"gallery/{page}")]
    paragraph += nodes.Text(".")
    return paragraph


def add_notes(app, doctree):
    """Say it under the title of a page with a defect, and of a report."""
    env, known = app.env, props.known()
    page, report = env.docname.removeprefix("gallery/"), env.docname.removeprefix(REPORTS)
    notes = [note_on_page(env, each) for each in known.values() if page in each.pages]
    if env.docname.startswith(REPORTS):
        if report not in known:
            logger.warning("%s has no defect of this name", props.FILE, location=env.docname)
        notes += [note_on_report(env, known[name]) for name in [report] if name in known]
    section = first_section(doctree)
    if notes and section is not None:
        depend_on(env, props.FILE)
        place = section.first_child_matching_class(nodes.title) + 1
        section.insert(place, nodes.container("", *notes, classes=["defect"]))


class Table(SphinxDirective):
    """``.. defects::``: one row a defect, with links to its report and its pages."""

    def run(self):
        """Let references fill in the titles of reports and pages."""
        depend_on(self.env, props.FILE)
        rows = []
        for name, one in props.known().items():
            fixed = f"{package_of(one)} {one.fixed_in}" if one.fixed_in else "—"
            pages = ", ".join(f":doc:`/gallery/{page}`" for page in one.pages)
            rows.append([f":doc:`/{REPORTS}{name}`\n\n{seen(one)}", fixed, pages])
        header = ["Report, and where it was seen", "Fixed in", "Shown by"]
        return list_table(self, "defects", [header, *rows])


def setup(app):
    """Add the table and the notes."""
    app.add_directive("defects", Table)
    app.add_css_file("defects.css")
    # After answer_first.py has put the figure below the first paragraph.
    app.connect("doctree-read", add_notes, priority=850)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
