"""The section Fix of a page: wrong and right beside each other, a tab for each library.

In the script they are headings below Fix: ``Wrong`` and ``Right``, and, where another library needs
other code, ``Wrong, tf_keras`` and ``Right, tf_keras``. What has no library is for Keras 3. Each
side has at most ten lines of code; blank ones are not counted. Code for PyTorch, which the build
does not have, is a ``.. code-block:: python``; `ran_in_pytorch` says below it what it did.
"""

import re

from docutils import nodes
from sphinx.util import logging
from sphinx_design.shared import create_component

logger = logging.getLogger(__name__)
SIDE = re.compile(r"(Wrong|Right)(?:, (.+))?")
FIRST = "Keras 3"
LINES = 10
BESIDE = 48  # columns of code that fit twice; longer ones stand below each other


def arrange(app, doctree):
    """Put wrong and right of each library beside each other."""
    for section in list(doctree.findall(nodes.section)):
        if app.env.docname.startswith("gallery/") and section[0].astext() == "Fix":
            arrange_section(section)


def arrange_section(section):
    """Replace the sections of the two sides by columns; several libraries by tabs."""
    found = [node for node in section if isinstance(node, nodes.section)]
    sides = [(each, SIDE.fullmatch(each[0].astext())) for each in found]
    sides = [(each, match[1], match[2] or FIRST) for each, match in sides if match]
    if not sides:
        logger.warning("a section Fix without Wrong and Right", location=section)
        return
    place, pairs = section.index(sides[0][0]), {}
    for each, side, library in sides:
        section.remove(each)
        pairs.setdefault(library, {})[side] = column(each, side)
    rows = {library: beside(library, pair, section) for library, pair in pairs.items()}
    section.insert(place, tabs(rows) if len(rows) > 1 else rows.popitem()[1])


def column(section, side):
    """What a side says, under its name."""
    for code in section.findall(nodes.literal_block):
        lines = [line for line in code.astext().splitlines() if line.strip()]
        if "sphx-glr-script-out" not in code["classes"] and len(lines) > LINES:
            logger.warning("%s has %d lines of code, more than %d", side, len(lines), LINES,
                           location=section)  # fmt: skip
    name = nodes.paragraph("", "", nodes.strong(text=side))
    classes = ["fix-side", f"fix-{side.lower()}"]
    return nodes.container("", name, *section[1:], classes=classes, ids=section["ids"])


def beside(library, pair, section):
    """Both sides of one library."""
    if pair.keys() != {"Wrong", "Right"}:
        logger.warning("Fix needs Wrong and Right for %s", library, location=section)
    both = [pair[side] for side in ("Wrong", "Right") if side in pair]
    codes = [code.astext() for side in both for code in side.findall(nodes.literal_block)]
    longest = max((len(line) for code in codes for line in code.splitlines()), default=0)
    below = ["fix-below"] if longest > BESIDE else []
    return nodes.container("", *both, classes=["fix-pair", *below], library=library)


def tabs(rows):
    """A tab for each library; a click on one chooses that library on all pages."""
    items = []
    for library, row in rows.items():
        label = nodes.rubric(library, library, classes=["sd-tab-label"])
        label["sync_id"], label["sync_group"] = nodes.make_id(library), "library"
        content = create_component("tab-content", classes=["sd-tab-content"], children=[row])
        items.append(
            create_component("tab-item", classes=["sd-tab-item"], children=[label, content])
        )
    items[0]["selected"] = True
    return create_component("tab-set", classes=["sd-tab-set"], children=items)


def setup(app):
    """Arrange before the contents of pages are collected: the sides are no sections there."""
    app.connect("doctree-read", arrange, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
