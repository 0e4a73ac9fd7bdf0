"""Small repairs of the HTML that docutils, sphinx-gallery and the theme write, found with axe."""

import re

CARD = re.compile(
    r'(<div class="sphx-glr-thumbcontainer".*?<img )alt=""(.*?<span class="doc">)(.*?)(</span>)',
    re.DOTALL,
)
TITLE = re.compile(r"(?<=<h1>)[^<]+")
LONG_NAME = re.compile(r"\w{20,}")
BETWEEN_PARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=_)")


def breakable(title):
    """The title, whose long names may break on a phone where their parts meet."""
    return LONG_NAME.sub(lambda name: BETWEEN_PARTS.sub("<wbr>", name[0]), title)


def repair(app, pagename, templatename, context, doctree):
    """Mend the page's body before it is written."""
    body = context.get("body")
    if not body:
        return
    # The thumbnail of a card has no text of its own; the card's title says what it shows.
    body = CARD.sub(r'\1alt="A figure of: \3"\2\3\4', body)
    body = TITLE.sub(lambda title: breakable(title[0]), body)
    # The role of a bibliography's entry was withdrawn from ARIA; the list expects items.
    context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app):
    """Repair every page."""
    app.connect("html-page-context", repair)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
