"""Papers: each number of arXiv in a page's text is a link, and ``{papers}`` lists them all.

What a paper has shown, and what was found of it later, stands in ``docs/papers.toml``. A page that
cites a number which is not there is a warning of the build.
"""

import re
import tomllib

from docutils import nodes
from docutils.parsers.rst import Directive
from project import ROOT, depend_on
from sphinx.util import logging

logger = logging.getLogger(__name__)
PAPERS = ROOT / "docs" / "papers.toml"
CITED = re.compile(r"arXiv\s+(\d{4}\.\d{5})")
KNOWN = {each["number"]: each for each in tomllib.loads(PAPERS.read_text("utf-8"))["paper"]}
NO_TEXT = (nodes.reference, nodes.literal, nodes.literal_block, nodes.comment, nodes.raw)


def link(app, doctree):
    """Make links of the numbers, and see that the list has each."""
    for text in list(doctree.findall(nodes.Text)):
        if not CITED.search(text) or _within(text, (nodes.literal, nodes.literal_block)):
            continue
        for number in CITED.findall(text):
            if number not in KNOWN:
                logger.warning("docs/papers.toml has no arXiv %s", number, location=text.parent)
        if not _within(text, NO_TEXT):
            text.parent.replace(text, _linked(text))


def _within(text, kinds):
    node = text.parent
    while node is not None and not isinstance(node, kinds):
        node = node.parent
    return node is not None


def _linked(text):
    """The pieces of a text, each number a link with the title behind it."""
    pieces = []
    for place, piece in enumerate(CITED.split(text)):
        pieces.append(_to_arxiv(piece, f"arXiv {piece}") if place % 2 else nodes.Text(piece))
    return [each for each in pieces if each.astext()]


def _to_arxiv(number, text):
    title = KNOWN.get(number, {}).get("title", "")
    return nodes.reference("", text, refuri=f"https://arxiv.org/abs/{number}", reftitle=title)


class Papers(Directive):
    """All papers, from the oldest on, each with what it has shown."""

    def run(self):
        depend_on(self.state.document.settings.env, PAPERS)
        listed = nodes.definition_list()
        for number, paper in sorted(KNOWN.items()):
            term = nodes.term("", f"{paper['who']}: {paper['title']}. ")
            term += _to_arxiv(number, f"arXiv {number}")
            said = " ".join(filter(None, (paper["shown"], paper.get("later"))))
            body = nodes.definition("", nodes.paragraph("", "", *_with_links(said)))
            listed += nodes.definition_list_item("", term, body)
        return [listed]


def _with_links(text):
    pieces = []
    for place, piece in enumerate(re.split(r"\b(\d{4}\.\d{5})\b", text)):
        pieces.append(_to_arxiv(piece, f"arXiv {piece}") if place % 2 else nodes.Text(piece))
    return pieces


def setup(app):
    app.add_directive("papers", Papers)
    app.connect("doctree-read", link)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
