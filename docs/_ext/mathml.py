"""Mathematics as MathML, made when the site is built: no script, no other host, read aloud.

Every present browser draws MathML by itself. STIX Two Math travels with the site, so that formulas
look alike where the reader has no such font; `lighten.py` leaves of it the letters that they use.
"""

import shutil
from html import escape
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError

FONT = "stix-two-math.woff2"
# In a package that is not imported for it.
WHOLE = Path(find_spec("ziamath").origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"


def to_mathml(latex, display, where):
    """LaTeX to MathML; an error names the page."""
    try:
        formula = convert(latex.strip(), display="block" if display else "inline")
    except Exception as error:
        raise ExtensionError(f"{where}: cannot read the formula {latex!r}: {error!r}") from error
    # What it was made of: for the page as Markdown.
    return formula.replace("<math ", f'<math alttext="{escape(" ".join(latex.split()))}" ', 1)


def visit_math(self, node):
    """An inline formula."""
    self.body.append(to_mathml(node.astext(), False, self.builder.current_docname))
    raise nodes.SkipNode


def visit_math_block(self, node):
    """A displayed formula; one that is too wide for a phone scrolls by itself."""
    formula = to_mathml(node.astext(), True, self.builder.current_docname)
    target = f' id="{node["ids"][0]}"' if node["ids"] else ""
    self.body.append(
        f'<div class="math-block"{target} tabindex="0" role="group" aria-label="Formula">'
        f"{formula}</div>"
    )
    raise nodes.SkipNode


def copy_font(app, error):
    """The whole font; `lighten` leaves of it what formulas use."""
    if not error and app.builder.format == "html":
        shutil.copyfile(WHOLE, Path(app.outdir, "_static", FONT))


def setup(app):
    """Offer the renderer under the name mathml."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("build-finished", copy_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
