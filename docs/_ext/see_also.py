"""The end of a gallery page: its neighbours in a post's series, related pages; titles of threads.

Related is what shows another cause of the same symptom, the most shared symptoms first, and what
uses the same layers. Which thread has which title stands where the search finds it, too.
"""

import ast
import itertools
import tomllib
from collections import Counter
from pathlib import Path

from docutils import nodes
from project import ROOT, first_section, link_to
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

import bnref

RELATED = 4
# The pages on one post, in the order of their names, which is that of reading.
SERIES = (
    "two_towers",
    "noisy_validation",
    "with_and_without",
    "alpha_and_momentum",
)
THREADS = (ROOT / "docs" / "_node" / "threads.toml", ROOT / "tests" / "search_phrases.toml")
COMMON = {"BatchNorm"}  # on nearly every page


class see_also_node(nodes.Element):  # noqa: N801, as docutils names its nodes
    """The place of the links, until all pages are read."""


def mark(app, doctree):
    """Give a gallery page the place, and its threads their titles."""
    docname, section = app.env.docname, first_section(doctree)
    if not docname.startswith("gallery/") or docname.endswith("/index") or section is None:
        return
    section.append(see_also_node())
    titles = thread_titles()
    for link in list(doctree.findall(nodes.reference)):
        title = titles.get(link.get("refuri", "").partition("#")[0])
        if title and title.replace("`", "") not in doctree.astext():
            place = link.parent.index(link) + 1
            link.parent.insert(place, [nodes.Text(" (“"), *written(title), nodes.Text("”)")])


def written(title):
    """A title as nodes: what stands between its backticks is code."""
    kinds = itertools.cycle([nodes.Text, lambda text: nodes.literal(text=text)])
    return [kind(part) for kind, part in zip(kinds, title.split("`"), strict=False) if part]


def thread_titles():
    """The title of each thread whose title the search knows, by its address."""
    found = {}
    for path in THREADS:
        for thread in next(iter(tomllib.loads(path.read_text("utf-8")).values())):
            if source := thread.get("source"):
                found.setdefault(source.partition("#")[0], thread["text"].rstrip(". "))
    return found


class Fill(SphinxPostTransform):
    """Write the links, once all pages were read."""

    default_priority = 5

    def run(self, **_):
        """Replace the place."""
        docname = self.env.docname
        for place in list(self.document.findall(see_also_node)):
            lines = [
                paragraph(self.env, title, pages)
                for title, pages in (
                    ("Before this in the series", neighbours(self.env, docname)[:1]),
                    ("After this in the series", neighbours(self.env, docname)[1:]),
                    ("Related", self.env.bnref_related.get(docname, [])),
                )
                if any(pages)
            ]
            place.replace_self([nodes.container("", *lines, classes=["see-also"])] if lines else [])


def paragraph(env, title, pages):
    """A line of links."""
    line = nodes.paragraph("", "", nodes.strong(text=f"{title}: "))
    for number, page in enumerate(each for each in pages if each):
        line += [nodes.Text("; ")] if number else []
        line += link_to(env, page)
    for link in line.findall(addnodes.pending_xref):
        link["refdoc"] = env.docname
    return line


def neighbours(env, docname):
    """The pages before and after this one on the same post; None where there is none."""
    name = docname.rpartition("/plot_")[2]
    for series in SERIES:
        if name.startswith(series) and docname.startswith("gallery/questions/"):
            start = f"gallery/questions/plot_{series}"
            pages = [None, *sorted(page for page in env.found_docs if page.startswith(start)), None]
            place = pages.index(docname)
            return [pages[place - 1], pages[place + 1]]
    return [None, None]


def related(env):
    """Of each page the ones that share most with it: symptoms, then layers that few pages use."""
    traits = {page: traits_of(env, page) for page in env.found_docs if is_page(page)}
    counts = Counter(each for found in traits.values() for each in found)
    return {page: nearest(page, traits, counts, neighbours(env, page)) for page in traits}


def nearest(docname, traits, counts, taken):
    """The pages that share most with one; what few pages have weighs more."""
    shared = {
        page: sum(1 / counts[each] for each in found & traits[docname])
        for page, found in traits.items()
        if page != docname and page not in taken
    }
    best = sorted(shared, key=lambda page: (-shared[page], page))[:RELATED]
    return [page for page in best if shared[page]]


def is_page(docname):
    return docname.startswith("gallery/") and not docname.endswith("/index")


def traits_of(env, docname):
    """What a page is about: its symptoms, and the layers that its script names."""
    entries = env.get_domain("symptom").data["entries"].get(docname, [])
    return frozenset({each["name"] for each in entries} | layers_of(ROOT / f"{docname}.py"))


def layers_of(script):
    """The layers of the package that a script names."""
    if not script.exists():
        return set()
    named = set()
    for node in ast.walk(ast.parse(Path(script).read_text("utf-8"))):
        if isinstance(node, ast.Name):
            named.add(node.id)
        elif isinstance(node, ast.Attribute):
            named.add(node.attr)
    return (named & set(bnref.layers.__all__)) - COMMON


def rewrite(app, env):
    """Write again the pages whose links another page has changed."""
    known = getattr(env, "bnref_related", {})
    env.bnref_related = now = related(env)
    return [page for page, found in now.items() if known.get(page, found) != found]


def setup(app):
    """Mark the place last but for the foot, and fill it when all is read."""
    app.add_node(see_also_node)
    app.connect("doctree-read", mark, priority=850)
    app.connect("env-updated", rewrite)
    app.add_post_transform(Fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
