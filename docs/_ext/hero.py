"""A gallery page shows its main figure right below its answer, before the code that draws it."""

from docutils import nodes


def show_figure_first(app, doctree):
    """Repeat the first figure after the first paragraph."""
    docname = app.env.docname
    if not docname.startswith("gallery/") or docname.endswith("/index"):
        return
    section = next(iter(doctree.findall(nodes.section)), None)
    figures = [node for node in doctree.findall() if "sphx-glr-single-img" in _classes(node)]
    answers = [node for node in section or () if isinstance(node, nodes.paragraph)]
    if figures and answers:
        place = section.index(answers[0]) + 1
        section.insert(place, figures[0].deepcopy())


def _classes(node):
    if not isinstance(node, nodes.Element):
        return ""
    return f"{node.get('class', '')} {' '.join(node.get('classes', []))}"


def setup(app):
    """Insert once the page is read."""
    app.connect("doctree-read", show_figure_first, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
