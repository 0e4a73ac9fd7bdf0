"""Numbers of a page's prose that the page measures: ``:claim:`94 % <name>```.

The proof of a gallery page calls `bnref_gallery.claims.claim` for each. Where the page was run, the
role shows what was measured, with as many digits as are written in the script: the mean, or the
least and the greatest where two numbers are written ("92 to 95 %"). With the pointer or a finger on
it, it says what it is, its spread and its bounds. What is written must lie within the bounds, too.

A bold number that is no claim fails the build, and so does a claim that the proof does not make.
All claims of the site are in ``claims.json`` at its root.
"""

import json
import os
import re
from pathlib import Path

from docutils import nodes
from foot import FOLDER
from project import depend_on
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

logger = logging.getLogger(__name__)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
WRITTEN = re.compile(r"(?P<text>[^<]*\S)\s*<(?P<name>\w+)>$")
DIGIT = re.compile(r"\d")


class claim_node(nodes.strong):  # noqa: N801, as docutils names its nodes
    """A number that a page measured."""


class Claim(SphinxRole):
    """A number as it was measured."""

    def run(self):
        """The number in bold, and what is behind it."""
        found = WRITTEN.fullmatch(self.text)
        if not found or not 1 <= len(NUMBER.findall(found["text"])) <= 2:
            logger.warning("claim needs one or two numbers and <name>: %r", self.text,
                           location=self.get_location())  # fmt: skip
            return [nodes.strong(text=self.text)], []
        text, name, path = found["text"], found["name"], claims_file(self.env.docname)
        if os.environ.get("BNREF_EXECUTE") == "0" or not path.exists():  # not run as it is now
            return [claim_node(text=text)], []
        depend_on(self.env, path)
        claim = json.loads(path.read_text()).get("claims", {}).get(name)
        if claim is None:
            logger.warning("no proof claims %r", name, location=self.get_location())
            return [nodes.strong(text=text)], []
        if outside := outside_of_bounds(text, claim):
            logger.warning("written %r, but %s is %s", text, name, outside,
                           location=self.get_location())  # fmt: skip
        return [claim_node(text=measured(text, claim), told=told(claim))], []


def claims_file(docname):
    """Where the claims of a page stand, once it was run."""
    return FOLDER / f"{docname.rpartition('/')[2]}.json"


def unit(text):
    """By what a value is multiplied to be written so."""
    return 100 if re.search(r"%|\bpoints?\b", text) else 1


def measured(text, claim):
    """The written text with the measured numbers in it."""
    values = [unit(text) * value for value in claim["values"]]
    if len(NUMBER.findall(text)) == 2:
        numbers = iter([min(values), max(values)])
    else:
        numbers = iter([sum(values) / len(values)])
    return NUMBER.sub(lambda written: like(written[0], next(numbers)), text)


def like(written, value):
    """A value with the digits and commas of what is written; a zero has no sign ("z")."""
    digits = len(written.partition(".")[2])
    return f"{value:z{',' if ',' in written else ''}.{digits}f}"


def outside_of_bounds(text, claim):
    """What the script says a number is where that lies out of its bounds; "" where it does not."""
    for written in NUMBER.findall(text):
        value, half = float(written.replace(",", "")), 0.5 * 10.0 ** -len(written.partition(".")[2])
        value, half = value / unit(text), half / unit(text)
        if claim["above"] is not None and value + half < claim["above"]:
            return claim["bounds"]
        if claim["below"] is not None and value - half > claim["below"]:
            return claim["bounds"]
    return ""


def told(claim):
    """What a reader is told of a number: what it is, its spread, its bounds."""
    values = claim["values"]
    told = claim["says"]
    if len(values) > 1:
        told += f", {len(values)} values from {min(values):.3g} to {max(values):.3g}"
    return f"{told}. The build fails unless {claim['bounds']}."


def visit(self, node):
    """A bold number; it says more where it is pointed at."""
    behind = {"tabindex": "0", "data-told": node["told"]} if "told" in node else {}
    self.body.append(self.starttag(node, "strong", "", CLASS="claim", **behind))


def depart(self, node):
    self.body.append("</strong>")


def bold_numbers(app, doctree):
    """Warn of bold numbers that are no claims, on pages with a proof."""
    docname = app.env.docname
    if not docname.startswith("gallery/") or "Proof" not in headings(doctree):
        return
    for strong in doctree.findall(nodes.strong):
        if DIGIT.search(strong.astext()) and not isinstance(strong, claim_node):
            logger.warning("bold, and no claim: %r", strong.astext(), location=strong)


def headings(doctree):
    """The titles of a page's sections."""
    return [title.astext() for title in doctree.findall(nodes.title)]


def write(app, error):
    """Write the claims of all pages beside the site."""
    if error is None and app.builder.format == "html":
        found = {}
        for docname in sorted(app.env.found_docs):
            path = claims_file(docname) if docname.startswith("gallery/") else None
            claims = json.loads(path.read_text()).get("claims") if path and path.exists() else None
            if claims:
                found[docname] = claims
        text = json.dumps(found, indent=1, ensure_ascii=False)
        (Path(app.outdir) / "claims.json").write_text(text, "utf-8")


def setup(app):
    """Add the role, what it looks like, and the check of bold numbers."""
    app.add_node(claim_node, html=(visit, depart))
    app.add_role("claim", Claim())
    app.connect("doctree-read", bold_numbers)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
