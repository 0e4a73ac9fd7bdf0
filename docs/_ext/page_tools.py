"""At the side of each page: its files, its source, and where to report a mistake.

`BNREF_REPOSITORY` is the address of the repository; without it, and without GitHub's own variables,
the last two are left out.
"""

import re
from html import unescape
from urllib.parse import quote

from addresses import repository

DOWNLOAD = re.compile(r'href="([^"]*_downloads/[^"]+\.(py|ipynb))"')
NAMES = {"py": "Python script", "ipynb": "Notebook"}


def source_of(pagename, suffix):
    """Where the text of a page stands in the repository."""
    if pagename.startswith("gallery/"):
        name = "GALLERY_HEADER.rst" if pagename.endswith("/index") else f"{pagename}.py"
        return f"{pagename.rpartition('/')[0]}/{name}" if "HEADER" in name else name
    return f"docs/{pagename}{suffix}"


def tools(app, pagename, templatename, context, doctree):
    """Give the template of the side its links: pairs of a text and an address."""
    if doctree is None or pagename == "search":  # no file is behind it, or nothing to keep
        context["page_tools"] = []
        return
    found = DOWNLOAD.findall(context.get("body") or "")
    links = [(NAMES[kind], address) for address, kind in dict.fromkeys(found)]
    links.append(("This page as Markdown", f"{pagename.rpartition('/')[2]}.md"))
    if address := repository():
        source = source_of(pagename, context.get("page_source_suffix") or ".md")
        title = quote(unescape(re.sub("<[^>]*>", "", context["title"])) + ": ")
        links.append(("Source", f"{address}/blob/main/{source}"))
        links.append(("Report a mistake", f"{address}/issues/new?title={title}"))
    context["page_tools"] = links


def setup(app):
    """Add the links to every page."""
    app.connect("html-page-context", tools)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
