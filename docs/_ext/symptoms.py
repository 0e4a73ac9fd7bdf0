"""The symptom finder: each page says what its reader sees, and one page lists the causes.

A page has ``.. symptom:: <name>`` with a cause, a check, how likely the cause is, and which of the
three questions it answers wrongly; ``:doctor: <name>`` says which of `bnref.doctor.CHECKS` finds
it. ``.. causes:: <name>`` becomes the table of all entries of that name, the likeliest first;
``.. likely-causes::`` a table of the first of each; and ``.. finder-controls::`` the list of names.
A name without ``causes``, and ``causes`` without an entry, are warnings, and so errors.

The directives of the finder make tables and lists that are empty; when every page is read, `Fill`
puts in what the pages said.
"""

from docutils import nodes
from docutils.parsers.rst import directives
from project import link_to
from sphinx import addnodes
from sphinx.domains import Domain
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from bnref.doctor import CHECKS

logger = logging.getLogger(__name__)
LIKELIHOODS = ("usual", "often", "sometimes", "seldom")
QUESTIONS = {"1": "1, whose statistics", "2": "2, remembered how", "3": "3, used when", "none": ""}
NAMED = 3  # so many causes of each symptom on the home page


class Symptoms(Domain):
    """What pages say that their readers see, and where the finder has which symptom."""

    name, label = "symptom", "Symptoms"
    initial_data = {"entries": {}, "sections": {}}  # of each page: a list, a list
    dangling_warnings = {"section": "the finder has no symptom %(target)r"}

    def said(self, kind):
        """All entries, or the names of all sections, each with its page."""
        return [(page, each) for page, found in sorted(self.data[kind].items()) for each in found]

    def causes(self, name):
        """The entries of a symptom with their pages, the likeliest first."""
        found = [(page, each) for page, each in self.said("entries") if each["name"] == name]
        return sorted(found, key=lambda pair: LIKELIHOODS.index(pair[1]["likelihood"]))

    def clear_doc(self, docname):
        """Forget what a page said, before it is read again."""
        for kind in self.initial_data:
            self.data[kind].pop(docname, None)

    def merge_domaindata(self, docnames, otherdata):
        """Take over what a parallel reader found."""
        for kind in self.initial_data:
            self.data[kind].update(
                {page: found for page, found in otherdata[kind].items() if page in docnames}
            )

    def resolve_xref(self, env, fromdocname, builder, typ, target, node, contnode):
        """A link to the section about a symptom."""
        for page, name in self.said("sections"):
            if name == target:
                return make_refnode(builder, fromdocname, page, nodes.make_id(name), contnode)
        return None  # which is warned of

    def check_consistency(self):
        """Each section has entries, and each pitfall's page a symptom."""
        for page, name in self.said("sections"):
            if not self.causes(name):
                logger.warning("no page has the symptom %r", name, location=page)
        for page in sorted(self.env.found_docs - self.data["entries"].keys()):
            if page.startswith("gallery/pitfalls/") and not page.endswith("/index"):
                logger.warning("a pitfall page without '.. symptom::'", location=page)


class Symptom(SphinxDirective):
    """What the reader of this page sees; shown there, and collected for the finder."""

    required_arguments, final_argument_whitespace = 1, True
    option_spec = {
        "cause": directives.unchanged_required,
        "check": directives.unchanged_required,
        "likelihood": lambda text: directives.choice(text, LIKELIHOODS),
        "question": lambda text: directives.choice(text, tuple(QUESTIONS)),
        "doctor": lambda text: directives.choice(text, tuple(CHECKS)),
    }  # docutils wants it so
    optional = ("doctor",)

    def run(self):
        """Refuse an entry that lacks a part; show one line."""
        needed = [name for name in self.option_spec if name not in self.optional]
        if missing := [name for name in needed if name not in self.options]:
            raise self.error(f"symptom lacks {', '.join(missing)}")
        name = " ".join(self.arguments[0].split())
        cause, check = (self.paragraph(self.options[part]) for part in ("cause", "check"))
        checks = [check]
        if doctor := self.options.get("doctor"):
            checks.append(self.paragraph(f"``examine(model, data, only=['{doctor}'])``"))
        entry = {**self.options, "name": name, "cause": cause, "checks": checks}
        domain = self.env.get_domain("symptom")
        domain.data["entries"].setdefault(self.env.docname, []).append(entry)
        line = nodes.paragraph("", "", nodes.strong(text="You see: "), link_to_section(name, name))
        line += [nodes.Text(". "), nodes.strong(text="To check: "), *check.deepcopy().children]
        return [nodes.container("", line, classes=["symptom"])]

    def paragraph(self, text):
        """Text with its roles, as a paragraph."""
        return nodes.paragraph("", "", *self.parse_inline(" ".join(text.split()))[0])


class Causes(SphinxDirective):
    """The causes of one symptom, and other words for it."""

    required_arguments, final_argument_whitespace = 1, True
    option_spec = {"words": directives.unchanged_required}

    def run(self):
        """Note that the finder has this name. The words are to be found, and not to be read."""
        name, domain = self.arguments[0], self.env.get_domain("symptom")
        domain.data["sections"].setdefault(self.env.docname, []).append(name)
        words = nodes.inline(
            text=f"{name} {self.options.get('words', '')}", classes=["finder-words"]
        )
        body = nodes.tbody(filled_by="causes", name=name)
        return [nodes.container("", table(("Cause", "Check", "Page"), "causes", body), words)]


class Empty(SphinxDirective):
    """``finder-controls`` is a list of symptoms, ``likely-causes`` a table: without their rows."""

    def run(self):
        """To the list symptoms.js adds a field."""
        if self.name == "finder-controls":
            return [nodes.bullet_list(filled_by="sections", classes=["symptom-picks"])]
        body = nodes.tbody(filled_by="likely")
        return [table(("You see", "Likely causes"), "likely-causes", body)]


class Fill(SphinxPostTransform):
    """Fill in what all pages said, before references are resolved."""

    default_priority = 5

    def run(self, **_):
        """Ask for each empty place what belongs there."""
        self.domain = self.env.get_domain("symptom")
        places = [each for each in self.document.findall(nodes.Element) if "filled_by" in each]
        for place in places:
            place += list(getattr(self, place["filled_by"])(place))
            for link in place.findall(addnodes.pending_xref):
                link["refdoc"] = self.env.docname  # it was written for another page

    def causes(self, place):
        """One row a cause."""
        for page, entry in self.domain.causes(place["name"]):
            likely = nodes.paragraph("", "", nodes.emphasis(text=entry["likelihood"]))
            if question := QUESTIONS[entry["question"]]:
                likely += nodes.Text(f"; question {question}")
            link = nodes.paragraph("", "", link_to(self.env, page))
            checks = [check.deepcopy() for check in entry["checks"]]
            yield row([entry["cause"].deepcopy(), likely], checks, [link])

    def likely(self, place):
        """One row a symptom."""
        for _, name in self.domain.said("sections"):
            links = [
                link_to(self.env, page, entry["cause"].astext())
                for page, entry in self.domain.causes(name)[:NAMED]
            ]
            yield row([section(name)], [nodes.bullet_list("", *map(item, links))])

    def sections(self, place):
        """One item a symptom."""
        for _, name in self.domain.said("sections"):
            yield nodes.list_item("", section(name))


def section(name):
    """A paragraph that leads to a symptom's section, under its title."""
    return nodes.paragraph("", "", link_to_section(name, name[0].upper() + name[1:]))


def link_to_section(name, text):
    """A link to where the finder has the symptom."""
    return addnodes.pending_xref(
        "", nodes.inline(text=text), refdomain="symptom", reftype="section", reftarget=name,
        refwarn=True,
    )  # fmt: skip


def item(link):
    return nodes.list_item("", nodes.paragraph("", "", link))


def row(*cells):
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def table(titles, kind, body):
    """A table of these titles and this body."""
    columns = [nodes.colspec(colwidth=1) for _ in titles]
    head = nodes.thead("", row(*([nodes.paragraph(text=title)] for title in titles)))
    group = nodes.tgroup("", *columns, head, body, cols=len(titles))
    return nodes.container("", nodes.table("", group, classes=[kind]), classes=["finder"])


def rewrite(app, env):
    """Write the finder and the home page again, whichever page changed."""
    return [name for name in ("symptoms", "index") if name in env.found_docs]


def setup(app):
    """Add the directives and what they stand on."""
    app.add_domain(Symptoms)
    app.add_directive("symptom", Symptom)
    app.add_directive("causes", Causes)
    app.add_directive("likely-causes", Empty)
    app.add_directive("finder-controls", Empty)
    app.add_post_transform(Fill)
    app.connect("env-updated", rewrite)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
