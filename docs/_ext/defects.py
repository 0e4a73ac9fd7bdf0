"""Defects of the frameworks: what pages assert with `defects.defect`, read from their sources.

Under the title of such a page, and of the report that the call names, stands on which versions the
defect was seen and since which it is gone, so that the call's `fixed_in` is the one thing to
change. ``.. defects::`` becomes the table of all. A call without a report, a report without a call,
and pages that disagree are warnings, and so errors.
"""

import ast
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
GALLERY = Path(__file__).resolve().parents[2] / "gallery"
NAMES = {"keras": "Keras", "tensorflow": "TensorFlow", "tf-keras": "tf_keras"}
REPORTS = "upstream/"


@dataclass(frozen=True)
class Defect:
    """What one call says, and the page that has it."""

    name: str
    seen_on: tuple
    fixed_in: str | None
    page: str

    @property
    def seen(self):
        """The versions, in words."""
        return " with ".join(f"{NAMES.get(each, each)} {number}" for each, number in self.seen_on)

    @property
    def package(self):
        """The package at fault, in words."""
        return NAMES.get(self.seen_on[0][0], self.seen_on[0][0])


def defects(folder):
    """All defects that the gallery's scripts assert, in the order of their names."""
    found = []
    for script in sorted(Path(folder).glob("*/plot_*.py")):
        text = script.read_text("utf-8")
        if "defect(" in text:
            found += _asserted(f"gallery/{script.parent.name}/{script.stem}", text)
    return sorted(found, key=lambda each: (each.package, each.name, each.page))


@cache  # asked for again by each page that is read
def _asserted(page, text):
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    calls = [each for each in calls if ast.unparse(each.func).split(".")[-1] == "defect"]
    return [_defect(page, each) for each in calls]


def _defect(page, call):
    said = {each.arg: each.value for each in call.keywords}
    try:
        name, seen_on = ast.literal_eval(call.args[0]), ast.literal_eval(said["seen_on"])
        fixed_in = ast.literal_eval(said.get("fixed_in", ast.Constant(None)))
        return Defect(name, tuple(seen_on.items()), fixed_in, page)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise ExtensionError(
            f"{page}.py, line {call.lineno}: the site reads defect(...) without running it: "
            "write its name first, and seen_on and fixed_in as they are"
        ) from error


def add_notes(app, doctree):
    """Say it under the title of a page with a defect, and of a report."""
    env, gallery = app.env, app.config.defects_gallery
    section = next(iter(doctree.findall(nodes.section)), None)
    found = defects(gallery)
    here = [each for each in found if each.page == env.docname]
    reported = [each for each in found if REPORTS + each.name == env.docname]
    if section is None or not (here or reported):
        return
    _depend_on_scripts(env, gallery)
    notes = [_note(each, figures="; the figures are the installed version's") for each in here]
    for note, each in zip(notes, here, strict=True):
        note += [nodes.Text(" "), _link(env, REPORTS + each.name, "Report"), nodes.Text(".")]
    for note in [_note(each) for each in reported[:1]]:
        note += nodes.Text(" Asserted by ")
        for number, each in enumerate(reported):
            note += [nodes.Text(", " if number else ""), _link(env, each.page)]
        note += nodes.Text(".")
        notes.append(note)
    title = section.first_child_matching_class(nodes.title)
    section.insert(title + 1, nodes.container("", *notes, classes=["defect"]))


def _note(defect, figures=""):
    if not defect.fixed_in:
        text = f"Seen on {defect.seen}. Not fixed in a version known to this site."
        return nodes.paragraph(text=text)
    fixed = nodes.strong(text=f"Fixed in {defect.package} {defect.fixed_in}.")
    text = f" The text says what {defect.seen} did{figures}."
    return nodes.paragraph("", "", fixed, nodes.Text(text))


def _link(env, docname, text=None):
    """To a page, under its title unless another text is given."""
    return addnodes.pending_xref(
        "", nodes.inline(text=text or ""), refdomain="std", reftype="doc", refwarn=True,
        reftarget=f"/{docname}", refexplicit=bool(text), refdoc=env.docname,
    )  # fmt: skip


def _depend_on_scripts(env, gallery):
    for script in Path(gallery).glob("*/plot_*.py"):
        env.note_dependency(str(script))


class Table(SphinxDirective):
    """``.. defects::``: one row a defect, with links to its report and its pages."""

    def run(self):
        """Parse the rows as reStructuredText, so that titles are filled in by references."""
        _depend_on_scripts(self.env, self.config.defects_gallery)
        found = defaultdict(list)
        for each in defects(self.config.defects_gallery):
            found[each.name].append(each)
        text = [".. list-table::", "   :header-rows: 1", "   :class: defects", ""]
        text += ["   * - Report, and where it was seen", "     - Fixed in", "     - Shown by"]
        for name, (first, *others) in found.items():
            pages = ", ".join(f":doc:`/{each.page}`" for each in (first, *others))
            fixed = f"{first.package} {first.fixed_in}" if first.fixed_in else "—"
            text += [f"   * - :doc:`/{REPORTS}{name}`", "", f"       {first.seen}"]
            text += [f"     - {fixed}", f"     - {pages}"]
        node = nodes.container()
        self.state.nested_parse(StringList(text, source="defects"), 0, node)
        return node.children


def check(app, env):
    """Each defect has a report, each report a page, and pages of one defect agree."""
    found = defects(app.config.defects_gallery)
    told = {}
    for each in found:
        if REPORTS + each.name not in env.found_docs:
            logger.warning("no report docs/%s%s.md", REPORTS, each.name, location=each.page)
        first = told.setdefault(each.name, each)
        if (first.seen_on, first.fixed_in) != (each.seen_on, each.fixed_in):
            logger.warning(
                "says of %s otherwise than %s", each.name, first.page, location=each.page
            )
    for docname in sorted(env.found_docs):
        if docname.startswith(REPORTS) and docname.removeprefix(REPORTS) not in told:
            logger.warning("no page asserts this defect", location=docname)


def setup(app):
    """Add the table, the notes and the checks."""
    app.add_config_value("defects_gallery", str(GALLERY), "env")
    app.add_directive("defects", Table)
    app.add_css_file("defects.css")
    # After hero.py has put the figure below the first paragraph.
    app.connect("doctree-read", add_notes, priority=850)
    app.connect("env-check-consistency", check)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
