"""The symptom finder: each page says what its reader sees, and one page lists the causes.

A page has ``.. symptom:: <name>`` with a cause, a check, how likely the cause is, and which of the
three questions it answers wrongly. ``.. causes:: <name>`` becomes the table of all entries of that
name, the likeliest first; ``.. likely-causes::`` a table of the first of each; and
``.. finder-controls::`` the list of names. A name without ``causes``, and ``causes`` without an
entry, are warnings, and so errors.
"""

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
LIKELIHOODS = ("usual", "often", "sometimes", "seldom")
QUESTIONS = {
    "1": "1, whose statistics", "2": "2, remembered how", "3": "3, used when", "none": None,
}  # fmt: skip
NAMED = 3  # so many causes of each symptom on the home page


class causes(nodes.General, nodes.Element):  # noqa: N801  (docutils' nodes are in lower case)
    """Stands where the table of a symptom's causes will be."""


class likely_causes(nodes.General, nodes.Element):  # noqa: N801
    """Stands where the table of all symptoms will be."""


class finder_controls(nodes.General, nodes.Element):  # noqa: N801
    """Stands where the list of symptoms will be, to which symptoms.js adds a field."""


class Symptom(SphinxDirective):
    """What the reader of this page sees; shown there, and collected for the finder."""

    required_arguments, final_argument_whitespace = 1, True
    option_spec = {
        "cause": directives.unchanged_required,
        "check": directives.unchanged_required,
        "likelihood": lambda text: directives.choice(text, LIKELIHOODS),
        "question": lambda text: directives.choice(text, tuple(QUESTIONS)),
    }  # noqa: RUF012  (docutils wants it so)

    def run(self):
        """Refuse an entry that lacks a part; show one line."""
        if missing := [name for name in self.option_spec if name not in self.options]:
            raise self.error(f"symptom lacks {', '.join(missing)}")
        name = " ".join(self.arguments[0].split())
        texts = {
            part: nodes.paragraph(
                "", "", *self.parse_inline(" ".join(self.options[part].split()))[0]
            )
            for part in ("cause", "check")
        }
        entry = {**self.options, **texts, "name": name, "docname": self.env.docname}
        _entries(self.env).append(entry)
        link = addnodes.pending_xref(
            "", nodes.inline(text=name), refdomain="std", reftype="doc", reftarget="/symptoms",
            refexplicit=True, refdoc=self.env.docname, refwarn=True,
        )  # fmt: skip
        line = nodes.paragraph("", "", nodes.strong(text="You see: "), link, nodes.Text(". "))
        line += [nodes.strong(text="To check: "), *texts["check"].deepcopy().children]
        return [nodes.container("", line, classes=["symptom"])]


class Causes(SphinxDirective):
    """The causes of one symptom."""

    required_arguments, final_argument_whitespace = 1, True
    option_spec = {"words": directives.unchanged_required}  # noqa: RUF012

    def run(self):
        """Leave a mark, and note that the finder knows this name."""
        name = self.arguments[0]
        _known(self.env)[name] = self.env.docname
        return [causes(name=name, words=self.options.get("words", ""))]


class Mark(SphinxDirective):
    """Leaves a mark, as which its name says: a list of symptoms, or a table of them."""

    def run(self):
        """Leave it."""
        return [finder_controls() if self.name == "finder-controls" else likely_causes()]


class Fill(SphinxPostTransform):
    """Put tables where the marks are, before references are resolved."""

    default_priority = 5
    builder = None  # of the build that is going on

    def run(self, **_):
        """Once all pages are read."""
        for mark in list(self.document.findall(causes)):
            mark.replace_self(self._causes(mark["name"], mark["words"]))
        for mark in list(self.document.findall(likely_causes)):
            mark.replace_self(self._likely())
        for mark in list(self.document.findall(finder_controls)):
            links = (nodes.paragraph("", "", self._section(name)) for name in _known(self.env))
            items = [nodes.list_item("", link) for link in links]
            mark.replace_self(nodes.bullet_list("", *items, classes=["symptom-picks"]))

    def _causes(self, name, words):
        rows = []
        for entry in entries(self.env, name):
            page = nodes.paragraph("", "", self._link(entry["docname"]))
            likely = nodes.paragraph("", "", nodes.emphasis(text=entry["likelihood"]))
            if question := QUESTIONS[entry["question"]]:
                likely += nodes.Text(f"; question {question}")
            rows.append(
                [[self._copy(entry["cause"]), likely], [self._copy(entry["check"])], [page]]
            )
        return _table(("Cause", "Check", "Page"), rows, "causes", words=f"{name} {words}")

    def _likely(self):
        rows = []
        for name in _known(self.env):
            symptom = nodes.paragraph("", "", self._section(name))
            items = nodes.bullet_list()
            for entry in entries(self.env, name)[:NAMED]:
                words = entry["cause"].astext()
                items += nodes.list_item(
                    "", nodes.paragraph("", "", self._link(entry["docname"], words))
                )
            rows.append([[symptom], [items]])
        return _table(("You see", "Likely causes"), rows, "likely-causes")

    def _section(self, name):
        title = name[0].upper() + name[1:]
        return self._link(_known(self.env)[name], title, nodes.make_id(name))

    def _copy(self, paragraph):
        copy = paragraph.deepcopy()
        for link in copy.findall(addnodes.pending_xref):
            link["refdoc"] = self.env.docname
        return copy

    def _link(self, docname, text=None, anchor=""):
        text = text or self.env.titles[docname].astext()
        uri = self.builder.get_relative_uri(self.env.docname, docname)
        return nodes.reference("", text, internal=True, refuri=uri + (anchor and f"#{anchor}"))


def entries(env, name):
    """The entries of a symptom, the likeliest first."""
    found = [entry for entry in _all(env) if entry["name"] == name]
    return sorted(found, key=lambda e: (LIKELIHOODS.index(e["likelihood"]), e["docname"]))


def check(app, env):
    """Every name that a page says must be in the finder, and the other way round."""
    for entry in _all(env):
        if entry["name"] not in _known(env):
            logger.warning(
                "no such symptom: %r; the finder has %s", entry["name"], ", ".join(_known(env)),
                location=entry["docname"],
            )  # fmt: skip
    for name, docname in _known(env).items():
        if not entries(env, name):
            logger.warning("no page has the symptom %r", name, location=docname)
    spoken = {entry["docname"] for entry in _all(env)}
    for docname in sorted(env.found_docs - spoken):
        if docname.startswith("gallery/pitfalls/") and not docname.endswith("/index"):
            logger.warning("a pitfall page without '.. symptom::'", location=docname)


def point_at_section(app, doctree, docname):
    """The line on a page leads to its symptom's section of the finder."""
    for box in doctree.findall(nodes.container):
        if "symptom" in box["classes"]:
            link = next(box.findall(nodes.reference))
            link["refuri"] = f"{link['refuri'].partition('#')[0]}#{nodes.make_id(link.astext())}"


def _table(titles, rows, kind, words=""):
    group = nodes.tgroup("", cols=len(titles))
    group += [nodes.colspec(colwidth=1) for _ in titles]
    header = nodes.row("", *(nodes.entry("", nodes.paragraph(text=title)) for title in titles))
    body = (nodes.row("", *(nodes.entry("", *cell) for cell in row)) for row in rows)
    group += [nodes.thead("", header), nodes.tbody("", *body)]
    box = nodes.container("", nodes.table("", group, classes=[kind]), classes=["finder"])
    # Read by symptoms.js; hidden, because the words are there to be found and not to be read.
    return nodes.container("", box, _hidden(words)) if words else box


def _hidden(words):
    return nodes.inline(text=words, classes=["finder-words"])


def _entries(env):
    return _store(env).setdefault(env.docname, [])


def _all(env):
    return [entry for docname in sorted(_store(env)) for entry in _store(env)[docname]]


def _store(env):
    if not hasattr(env, "symptoms"):
        env.symptoms = {}
    return env.symptoms


def _known(env):
    if not hasattr(env, "symptoms_known"):
        env.symptoms_known = {}
    return env.symptoms_known


def purge(app, env, docname):
    """Forget what a page said, before it is read again."""
    _store(env).pop(docname, None)
    for name in [name for name, known in _known(env).items() if known == docname]:
        del _known(env)[name]


def merge(app, env, docnames, other):
    """Take over what a parallel reader found."""
    _store(env).update({name: _store(other)[name] for name in docnames if name in _store(other)})
    _known(env).update({k: v for k, v in _known(other).items() if v in docnames})


def rewrite(app, env):
    """Write the finder and the home page again, whichever page changed."""
    return [name for name in ("symptoms", "index") if name in env.found_docs]


def setup(app):
    """Add directives, the tables, and the checks."""
    app.add_directive("symptom", Symptom)
    app.add_directive("causes", Causes)
    app.add_directive("likely-causes", Mark)
    app.add_directive("finder-controls", Mark)
    app.add_post_transform(Fill)
    app.connect("builder-inited", lambda app: setattr(Fill, "builder", app.builder))
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", rewrite)
    app.connect("env-check-consistency", check)
    app.connect("doctree-resolved", point_at_section)
    return {
        "version": "1",
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
