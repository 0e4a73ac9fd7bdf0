"""What a page tells those who link to it: description, address, figure; where links are lost.

The work is that of sphinxext-opengraph, sphinx-sitemap and sphinx-notfound-page. Where nobody says
at which address the site is published (`addresses.site`), what would need it is left out.
"""

import re
from html import unescape
from urllib.parse import urlparse

from addresses import site
from answer_first import figures

NEEDS_AN_ADDRESS = re.compile(r'<meta property="og:(?:url|image|image:alt)"[^>]*>\n?')
LOST = """<h1>This page is not here</h1>
<p>It may have moved. The <a href="{0}symptoms.html">symptoms</a> lead to their causes, and
<a href="{0}search.html">the search</a> finds what you type.</p>
<p><a href="{0}index.html">To the beginning</a></p>"""


def note_figure(app, doctree):
    """The figure of a page is the one that is shown with its link."""
    for image in figures(doctree):
        metadata = app.env.metadata[app.env.docname]
        metadata["og:image"] = f"_images/{image['uri'].rpartition('/')[2]}"
        metadata["og:image:alt"] = unescape(image["alt"])
        break


def leave_out(app, pagename, templatename, context, doctree):
    """No address that is not known."""
    if not site():
        context["metatags"] = NEEDS_AN_ADDRESS.sub("", context.get("metatags", ""))


def configure(app, config):
    """Give the extensions the address of the site."""
    address = site() or ""
    prefix = urlparse(address).path or "/"
    config.html_baseurl = config.ogp_site_url = address
    config.ogp_social_cards = {"enable": False}
    config.sitemap_url_scheme = "{link}"
    config.notfound_urls_prefix = prefix
    config.notfound_context = {"title": "This page is not here", "body": LOST.format(prefix)}


def setup(app):
    """Set up what does the work, and tell it the address."""
    app.setup_extension("sphinxext.opengraph")
    app.setup_extension("notfound.extension")
    if site():
        app.setup_extension("sphinx_sitemap")
    app.connect("config-inited", configure)
    app.connect("doctree-read", note_figure, priority=700)
    app.connect("html-page-context", leave_out, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
