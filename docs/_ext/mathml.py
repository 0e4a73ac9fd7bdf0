"""Mathematics as MathML, made when the site is built: no script, no other host, read aloud.

Every present browser draws MathML by itself. A subset of STIX Two Math travels with the site, so
that formulas look alike where the reader has no mathematical font.
"""

from importlib.resources import files
from pathlib import Path

from docutils import nodes
from fontTools import subset
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError

FONT = "stix-two-math.woff"
# Latin, Greek, accents, punctuation, letter-like signs, arrows, operators, brackets, and the
# mathematical italic, bold, script and double-struck alphabets.
LETTERS = "20-17F,2B0-3FF,2000-22FF,2308-23FF,27C0-27EF,2A00-2AFF,1D400-1D7FF"


def to_mathml(latex, display, where):
    """LaTeX to MathML; an error names the page."""
    try:
        return convert(latex.strip(), display="block" if display else "inline")
    except Exception as error:
        raise ExtensionError(f"{where}: cannot read the formula {latex!r}: {error!r}") from error


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


def write_font(app, error):
    """Write the part of the font that formulas use, once."""
    target = Path(app.outdir, "_static", FONT)
    if error or app.builder.format != "html" or target.exists():
        return
    whole = files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"
    options = ["--flavor=woff", "--layout-features=*", "--notdef-outline", f"--unicodes={LETTERS}"]
    subset.main([str(whole), *options, f"--output-file={target}"])


def setup(app):
    """Offer the renderer under the name mathml."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("build-finished", write_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
