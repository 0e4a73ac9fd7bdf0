"""The finder: from what a reader sees to its causes, made of the doctor's checks and of the pages.

``.. causes:: <name>`` becomes the table of all causes of that symptom, the likeliest first: those
of `bnref.doctor.CHECKS`, with how often each check was right in the recorded models, and those that
only a page tells. ``.. symptom-groups::`` lists all symptoms by their groups, each with its
likeliest cause; and
``.. finder-controls::`` the list of symptoms. A symptom without a section, and a section without a
cause, are warnings, and so errors.

The directives make tables and lists that are empty; when every page is read, `Fill` puts in what
the pages said.
"""

from docutils import nodes
from docutils.parsers.rst import directives
from project import PROPS, ROOT, depend_on, link_to
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from symptoms import inline, link_to_section

from bnref.doctor import CHECKS

QUESTIONS = {1: "1, whose statistics", 2: "2, remembered how", 3: "3, used when"}
RECORDS = [PROPS / "recorded" / name for name in ("doctor.csv", "doctor_on_pages.csv")]


class Causes(SphinxDirective):
    """The causes of one symptom, and other words for it."""

    required_arguments, final_argument_whitespace = 1, True
    option_spec = {"words": directives.unchanged_required, "group": directives.unchanged_required}

    def run(self):
        """Note that the finder has this name. The words are to be found, and not to be read."""
        name, domain = self.arguments[0], self.env.get_domain("symptom")
        causes = [self.cause(each, name) for each in CHECKS.values() if name in each.symptoms]
        words = self.options.get("words", "")
        section = {"name": name, "causes": causes, "words": words}
        section["group"] = self.options.get("group", "Others")
        domain.data["sections"].setdefault(self.env.docname, []).append(section)
        depend_on(self.env, *RECORDS, *(ROOT / "bnref" / "doctor" / "checks").glob("*.py"))
        body = nodes.tbody(filled_by="causes", name=name)
        return [table(("Cause", "Check", "Page"), "causes", body)]

    def cause(self, check, name):
        """What a check of the doctor says of its cause."""
        return {
            "doctor": check.name,
            "cause": inline(self, check.cause),
            "likelihood": check.symptoms[name],
            "question": str(check.question),
            "page": check.page,
        }


class Empty(SphinxDirective):
    """``finder-controls`` lists the symptoms, ``symptom-groups`` by groups: both without items."""

    def run(self):
        """What `Fill` fills."""
        if self.name == "finder-controls":
            return [nodes.bullet_list(filled_by="sections", classes=["symptom-picks"])]
        return [nodes.container(filled_by="groups", classes=["symptom-groups"])]


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
        found = counted()
        for cause in self.domain.causes(place["name"]):
            told = [cause["cause"].deepcopy()]
            if cause["ways"]:
                ways = [nodes.list_item("", way.deepcopy()) for way in cause["ways"]]
                told.append(nodes.bullet_list("", *ways))
            told.append(likely(cause, found))
            checks = [check.deepcopy() for check in cause["by_hand"]]
            if cause["doctor"]:
                call = CHECKS[cause["doctor"]].call
                checks.insert(0, nodes.paragraph("", "", nodes.literal(text=call)))
            links = [nodes.paragraph("", "", link_to(self.env, page)) for page in cause["pages"]]
            yield row(told, checks, links)

    def groups(self, place):
        """One list a group: each symptom, and the likeliest of its causes."""
        groups = {}
        for _, each in self.domain.said("sections"):
            line = section(each["name"])
            for cause in self.domain.causes(each["name"])[:1]:
                likeliest = link_to(self.env, cause["pages"][0], cause["cause"].astext())
                others = len(self.domain.causes(each["name"])) - 1
                more = f", or {others} more" if others else ""
                line += [nodes.Text(": "), likeliest, nodes.Text(more)]
            groups.setdefault(each["group"], []).append(nodes.list_item("", line))
        for title, items in groups.items():
            name = nodes.paragraph("", "", nodes.strong(text=title))
            yield nodes.container("", name, nodes.bullet_list("", *items))

    def sections(self, place):
        """One item a symptom."""
        for _, each in self.domain.said("sections"):
            yield nodes.list_item("", section(each["name"]))


def counted():
    """How often each check fired in the recorded models: a sentence for each.

    The models that were made to be broken, their twins and other healthy ones, of which no check
    may accuse any; and those of the pages, which are right or wrong in the page's own cause. A
    check that was not asked, because a cause was found that explains its own, counts as fired.
    """
    from bnref_gallery import records

    _, made = records.read(records.path_of("doctor.csv"))
    _, shown = records.read(records.path_of("doctor_on_pages.csv"))
    sentences = {}
    for name in CHECKS:
        broken, healthy = [], []
        for kind, planted, found in zip(made["kind"], made["planted"], made["found"], strict=True):
            if kind != "sick":
                healthy.append(found.split())
            elif planted == name:
                broken.append(found.split())
        for kind, asked, found in zip(shown["kind"], shown["asked"], shown["found"], strict=True):
            if asked == name:
                (broken if kind == "sick" else healthy).append(found.split())
        names = {name, *CHECKS[name].unless}
        fired = sum(not names.isdisjoint(found) for found in broken)
        silent = sum(name not in found for found in healthy)
        sentences[name] = (
            f"fires on {fired} of {len(broken)} broken models, "
            f"silent on {silent} of {len(healthy)} healthy ones"
        )
    return sentences


def likely(cause, found):
    """How likely a cause is, what it answers wrongly, and how often its check was right."""
    line = nodes.paragraph("", "", nodes.emphasis(text=cause["likelihood"]))
    if cause["question"] != "none":
        line += nodes.Text(f"; question {QUESTIONS[int(cause['question'])]}")
    if cause["doctor"]:
        line += nodes.Text(f"; its check {found[cause['doctor']]}")
    return line


def section(name):
    """A paragraph that leads to a symptom's section, under its title."""
    return nodes.paragraph("", "", link_to_section(name, name[0].upper() + name[1:]))


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
    app.setup_extension("symptoms")
    app.add_directive("causes", Causes)
    app.add_directive("symptom-groups", Empty)
    app.add_directive("finder-controls", Empty)
    app.add_post_transform(Fill)
    app.connect("env-updated", rewrite)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
