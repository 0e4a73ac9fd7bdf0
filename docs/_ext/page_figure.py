"""``.. page-figure:: <page>``: a gallery page's figure elsewhere; nothing before it was run."""

import re

from docutils import nodes
from project import ROOT, depend_on
from sphinx.util.docutils import SphinxDirective

ALTERNATIVE = re.compile(r":alt: (.*)")


class PageFigure(SphinxDirective):
    """The first figure of a page, with its text."""

    required_arguments = 1

    def run(self):
        """The picture that the page's last run has left."""
        docname = self.arguments[0].strip("/")
        folder, _, stem = docname.rpartition("/")
        address = f"{folder}/images/sphx_glr_{stem}_001.png"
        picture, page = ROOT / "docs" / address, ROOT / "docs" / f"{docname}.rst"
        if not picture.exists():
            return []
        depend_on(self.env, picture, page)
        text = ALTERNATIVE.search(page.read_text("utf-8"))
        return [nodes.image(uri=f"/{address}", alt=text[1] if text else "")]


def setup(app):
    """Add the directive."""
    app.add_directive("page-figure", PageFigure)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
