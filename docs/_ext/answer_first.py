"""What a reader of a gallery page sees first: the answer, its figure, and how it was made.

The main figure moves up to the answer, so that it is on the page once; below it stands one line,
how long the page took, where and when. The assertions at the end are folded away.
"""

import json

from docutils import nodes
from foot import FOLDER
from project import depend_on, first_section

PROOFS = {"Proof", "Conclusion"}


def arrange(app, doctree):
    """Put a gallery page into its order."""
    docname = app.env.docname
    if not docname.startswith("gallery/") or docname.endswith("/index"):
        return
    section = first_section(doctree)
    answer = next((node for node in section or () if isinstance(node, nodes.paragraph)), None)
    if answer is None:
        return
    place = section.index(answer) + 1
    known = FOLDER / f"{docname.rpartition('/')[2]}.json"
    if known.exists():
        depend_on(app.env, known)
        section.insert(place, made(json.loads(known.read_text())))
    figure = first_figure(doctree)
    if figure is not None:
        figure.parent.remove(figure)
        section.insert(place, figure)
    for each in doctree.findall(nodes.section):
        if each[0].astext() in PROOFS:
            fold_code(each)


def first_figure(doctree):
    """The first figure that stands alone, or None."""
    for node in doctree.findall(nodes.Element):
        if "sphx-glr-single-img" in [*node["classes"], *(node.get("class") or [])]:
            return node
    return None


def made(facts):
    """One line: seconds, device, scale, date."""
    told = [f"{facts['seconds']:.0f} s", facts["devices"], f"scale {facts['scale']}"]
    told += [facts["date"]] if "date" in facts else []
    return nodes.paragraph(text=f"Made in {'; '.join(told)}.", classes=["page-made"])


def fold_code(section):
    """Fold away the code of a section and what it printed."""
    for code in [node for node in section if isinstance(node, nodes.literal_block)]:
        if is_output(code):
            continue
        start = section.index(code)
        end = start + 1
        while end < len(section) and is_output(section[end]):
            end += 1
        folded = section[start:end]
        asserts = code.astext().count("assert ")
        title = f"{asserts} assertions that this build holds" if asserts > 1 else "The code"
        del section[start:end]
        opening = nodes.raw("", f"<details><summary>{title}</summary>", format="html")
        closing = nodes.raw("", "</details>", format="html")
        section.insert(start, nodes.container("", opening, *folded, closing, classes=["proof"]))


def is_output(node):
    """Whether sphinx-gallery wrote down here what a cell printed."""
    return "sphx-glr-script-out" in node.get("classes", [])


def setup(app):
    """Arrange once the page is read."""
    app.connect("doctree-read", arrange, priority=800)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
