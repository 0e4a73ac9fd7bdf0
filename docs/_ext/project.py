"""Where the project's files lie, and what several extensions do alike."""

from pathlib import Path

from docutils import nodes
from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[2]
PROPS = ROOT / "gallery" / "bnref_gallery"


def depend_on(env, *paths):
    """Read the page that is being read again when one of these files has changed."""
    for path in paths:
        env.note_dependency(str(path))


def link_to(env, docname, text=""):
    """A link to a page, under its title unless a text is given; a warning if there is no page."""
    return addnodes.pending_xref(
        "", nodes.inline(text=text), refdomain="std", reftype="doc", refwarn=True,
        reftarget=f"/{docname}", refexplicit=bool(text), refdoc=env.docname,
    )  # fmt: skip


def first_section(doctree):
    """The section that is the page, so that what is added stands in the article; None: no title."""
    return next(iter(doctree.findall(nodes.section)), None)
