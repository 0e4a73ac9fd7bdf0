"""A gallery page shows its main figure right below its answer, before the code that draws it."""

from docutils import nodes
from project import first_section


def show_figure_first(app, doctree):
    """Repeat the first figure after the first paragraph."""
    docname = app.env.docname
    if not docname.startswith("gallery/") or docname.endswith("/index"):
        return
    elements = doctree.findall(nodes.Element)
    figures = [node for node in elements if "sphx-glr-single-img" in classes(node)]
    section = first_section(doctree)
    answers = [node for node in section or () if isinstance(node, nodes.paragraph)]
    if figures and answers:
        place = section.index(answers[0]) + 1
        section.insert(place, figures[0].deepcopy())


def classes(node):
    """The classes that docutils knows, and those of sphinx-gallery's own image node."""
    return [*node["classes"], *(node.get("class") or [])]


def setup(app):
    """Insert once the page is read."""
    app.connect("doctree-read", show_figure_first, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
