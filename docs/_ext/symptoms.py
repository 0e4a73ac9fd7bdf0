"""What readers see: each page says it, and which cause is behind.

A page has ``.. symptom:: <name>`` with a check by hand. Where `bnref.doctor` has a check of the
cause, ``:doctor: <its name>`` leaves the rest to it: how likely the cause is behind that symptom,
and which of the three questions it answers wrongly; ``:cause:`` may say how it comes about there.
Where it has none, the page says ``cause``, ``likelihood`` and ``question`` itself. `finder` makes
the tables of it.
"""

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.domains import Domain
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from bnref.doctor import CHECKS
from bnref.doctor.checks._check import LIKELIHOODS

logger = logging.getLogger(__name__)
QUESTIONS = ("1", "2", "3", "none")


class Symptoms(Domain):
    """What pages say that their readers see, and where the finder has which symptom."""

    name, label = "symptom", "Symptoms"
    # Of each page: what it says; the symptoms that it lists, each with the causes of the checks.
    initial_data = {"entries": {}, "sections": {}}
    dangling_warnings = {"section": "the finder has no symptom %(target)r"}

    def said(self, kind):
        """All entries, or all sections, each with its page."""
        return [(page, each) for page, found in sorted(self.data[kind].items()) for each in found]

    def causes(self, name):
        """What may be behind a symptom, the likeliest first: that of a check, then of pages."""
        decided = {
            cause["doctor"]: {**cause, "ways": [], "by_hand": [], "pages": [cause["page"]]}
            for _, section in self.said("sections")
            if section["name"] == name
            for cause in section["causes"]
        }
        others = []
        for page, entry in self.said("entries"):
            if entry["name"] != name:
                continue
            if entry["doctor"] is None:
                others.append({**entry, "ways": [], "by_hand": [entry["check"]], "pages": [page]})
            elif entry["doctor"] in decided:
                cause = decided[entry["doctor"]]
                cause["by_hand"].append(entry["check"])
                cause["ways"] += [entry["cause"]] if entry["cause"] else []
                cause["pages"] += [page] if page not in cause["pages"] else []
        found = [*decided.values(), *others]
        return sorted(found, key=lambda cause: LIKELIHOODS.index(cause["likelihood"]))

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
        for page, section in self.said("sections"):
            if section["name"] == target:
                return make_refnode(builder, fromdocname, page, nodes.make_id(target), contnode)
        return None  # which is warned of

    def check_consistency(self):
        """Each section has causes, and each pitfall's page a symptom."""
        for page, section in self.said("sections"):
            if not self.causes(section["name"]):
                logger.warning("no page has the symptom %r", section["name"], location=page)
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
        "question": lambda text: directives.choice(text, QUESTIONS),
        "doctor": lambda text: directives.choice(text, tuple(CHECKS)),
    }  # docutils wants it so

    def run(self):
        """Collect the entry; show one line."""
        name = " ".join(self.arguments[0].split())
        doctor = self.options.get("doctor")
        self.refuse_what_does_not_fit(name, doctor)
        cause = self.options.get("cause")
        check = inline(self, self.options["check"])
        entry = {
            "name": name,
            "doctor": doctor,
            "cause": inline(self, cause) if cause else None,
            "check": check,
            "likelihood": self.options.get("likelihood"),
            "question": self.options.get("question"),
        }
        domain = self.env.get_domain("symptom")
        domain.data["entries"].setdefault(self.env.docname, []).append(entry)
        seen = nodes.paragraph("", "", nodes.strong(text="You see: "), link_to_section(name, name))
        to_check = nodes.paragraph("", "", nodes.strong(text="To check: "))
        if doctor:
            to_check += [nodes.literal(text=CHECKS[doctor].call), nodes.Text("; or by hand: ")]
        to_check += check.deepcopy().children
        told = {"doctor": doctor, "by_hand": check}
        return [nodes.container("", seen, to_check, classes=["symptom"], **told)]

    def refuse_what_does_not_fit(self, name, doctor):
        """Each part is said once: by the page, or by the doctor's check."""
        parts = {"likelihood", "question"}
        needed = {"check"} if doctor else {"check", "cause", *parts}
        if missing := sorted(needed - self.options.keys()):
            raise self.error(f"symptom lacks {', '.join(missing)}")
        if not doctor:
            return
        if twice := sorted(parts & self.options.keys()):
            raise self.error(f"the check {doctor} says {', '.join(twice)}: leave it to that")
        if name not in CHECKS[doctor].symptoms:
            raise self.error(f"the check {doctor} does not have the symptom {name!r}")


def inline(directive, text):
    """Text with its roles, as a paragraph."""
    return nodes.paragraph("", "", *directive.parse_inline(" ".join(text.split()))[0])


def link_to_section(name, text):
    """A link to where the finder has the symptom."""
    return addnodes.pending_xref(
        "", nodes.inline(text=text), refdomain="symptom", reftype="section", reftarget=name,
        refwarn=True,
    )  # fmt: skip


def setup(app):
    """Add the directive and what it stands on."""
    app.add_domain(Symptoms)
    app.add_directive("symptom", Symptom)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
