"""The conformance table: the recorded cells, and beside each the program that measured it.

``.. conformance-table::`` is the table, ``.. conformance-behaviour:: momentum`` what is asked, the
rule, all answers in full and the program, ``.. conformance-programs::`` how each implementation is
run. The roles ``agrees``, ``differs``, ``wrong`` and ``absent`` with ``implementation | behaviour``
give a cell's value, as a link, and refuse a cell of another verdict: what the page says of it is
then no longer true.
"""

import inspect
import itertools
import re
from collections import Counter
from html import escape

import tables
from docutils import nodes
from project import PROPS, depend_on
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

RECORD = PROPS / "recorded" / "conformance.csv"
PROGRAMS = PROPS / "conformance"
# A sign for each verdict, so that its colour is not needed to tell it.
VERDICTS = {
    "as the formula": ("agrees", "✓"),
    "differs by design": ("differs", "≠"),
    "wrong": ("wrong", "✗"),
    "not offered": ("absent", "–"),
}
# What the files are for that are no implementation's.
SHARED = {
    "asking": "A step and its outcome",
    "formula": "The formula, in float64",
    "replicas": "Replicas of TensorFlow",
    "torch_process": "A process of PyTorch",
    "__init__": "All rows and columns",
}


def cells(path=None):
    """The provenance, and the cells by (implementation, behaviour): all of them, and judged."""
    from bnref_gallery.conformance import BEHAVIOURS, IMPLEMENTATIONS

    path = path or RECORD
    provenance, rows = tables.recorded(path, "verdict", VERDICTS)
    found = {(row["implementation"], row["behaviour"]): row for row in rows}
    wanted = list(itertools.product(IMPLEMENTATIONS, BEHAVIOURS))
    if missing := [name for name in wanted if name not in found]:
        raise ExtensionError(f"{path} has no cell for {missing}: delete it and record it anew")
    return provenance, {name: found[name] for name in wanted}


def table(found):
    """The table: behaviours across, implementations down, each cell a link to the full answer."""
    behaviours = list(dict.fromkeys(behaviour for _, behaviour in found))
    columns = [tables.link(escape(b), f"#behaviour-{nodes.make_id(b)}") for b in behaviours]
    rows = [
        (breakable(name), [cell(found[name, behaviour]) for behaviour in behaviours])
        for name in dict.fromkeys(implementation for implementation, _ in found)
    ]
    return tables.scrolling("Conformance table", "implementation", columns, rows)


def cell(row):
    """One cell of the table."""
    verdict, sign = VERDICTS[row["verdict"]]
    address = f"#{anchor(row['implementation'], row['behaviour'])}"
    return tables.cell(verdict, sign, apostrophes(shown(row["value"])), row["verdict"], address)


def anchor(implementation, behaviour):
    """Where the full answer stands."""
    return f"{nodes.make_id(behaviour)}--{nodes.make_id(implementation)}"


def breakable(name):
    """A dotted name as HTML that may break after a dot and before a capital or a parenthesis."""
    return re.sub(r"(?<=[._(])|(?<=[a-z])(?=[A-Z(=])", "<wbr>", escape(name))


def shown(text):
    """Recorded text as a reader sees it: powers of ten written out, formulas kept on one line."""
    power = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    text = re.sub(r"(\d)e([+-]\d+)", lambda m: f"{m[1]}·10{str(int(m[2])).translate(power)}", text)
    return text.replace("n − 1", "n\u00a0−\u00a01")


def apostrophes(text):
    """As Sphinx writes them in paragraphs."""
    return text.replace("'", "’")


def folded(summary, path, source):
    """A program, shown when its summary is opened."""
    block = nodes.literal_block(source, source, language="python")
    label = f"{summary} <code>gallery/bnref_gallery/conformance/{path.name}</code>"
    before = f'<details class="program"><summary>{label}</summary>'
    return [nodes.raw("", before, format="html"), block, nodes.raw("", "</details>", format="html")]


class Table(SphinxDirective):
    """The table, how many cells each verdict has, and how it was recorded."""

    def run(self):
        """Count before the table, and tell its versions after it."""
        depend_on(self.env, RECORD)
        provenance, found = cells()
        counts = Counter(row["verdict"] for row in found.values())
        legend = ", ".join(f"{sign} {v} ({counts[v]})" for v, (_, sign) in VERDICTS.items())
        every = {each for row in found.values() for each in row["versions"].split(", ")}
        return [
            nodes.paragraph(text=f"Signs, and how many of {len(found)} cells: {legend}."),
            table(found),
            tables.recording(provenance, f" Measured: {', '.join(sorted(every))}."),
        ]


class Behaviour(SphinxDirective):
    """What is asked, by which rule it is judged, every answer, and the program."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self):
        """Take the words from the docstring of the probe."""
        from bnref_gallery.conformance import BEHAVIOURS, IMPLEMENTATIONS, programs

        depend_on(self.env, RECORD, *PROGRAMS.glob("*.py"))
        name, (_, found) = self.arguments[0], cells()
        if name not in BEHAVIOURS:
            raise self.error(f"behaviour must be one of {', '.join(BEHAVIOURS)}; received {name!r}")
        probe = BEHAVIOURS[name]
        asked, *rules = inspect.getdoc(probe).split("\n\n")
        target = nodes.paragraph("", "", nodes.strong(text=asked))
        target["ids"].append(f"behaviour-{nodes.make_id(name)}")
        answers = nodes.definition_list(classes=["conformance-answers"])
        for implementation, one in IMPLEMENTATIONS.items():
            answers += answer(found[implementation, name], programs.file_of(type(one)))
        again = f"python gallery/results/run_conformance.py --behaviour {name!r}"
        again = ["To measure it again: ", nodes.literal(text=again), nodes.Text(".")]
        source = folded("The program that asks:", programs.file_of(probe), programs.program(probe))
        rules = [self.paragraph(rule) for rule in rules]
        return [target, *rules, answers, nodes.paragraph("", *again), *source]

    def paragraph(self, text):
        """Of a docstring, with its roles."""
        return nodes.paragraph("", "", *self.parse_inline(shown(text.replace("\n", " ")))[0])


def answer(row, path):
    """One answer in full, with a link to how the implementation is run."""
    kind, sign = VERDICTS[row["verdict"]]
    term = nodes.term("", "", nodes.literal(text=row["implementation"]))
    term["ids"].append(anchor(row["implementation"], row["behaviour"]))
    verdict = nodes.strong(text=f"{sign} {row['verdict']}", classes=[kind])
    address = f"#program-{nodes.make_id(path.stem)}"
    run = nodes.reference("", "How it is run", internal=True, refuri=address)
    details = row["details"][:1].upper() + row["details"][1:]
    text = nodes.Text(shown(f": {row['value']}. {details}. "))
    line = nodes.paragraph("", "", verdict, text, run, nodes.Text("."))
    return nodes.definition_list_item("", term, nodes.definition("", line))


class Programs(SphinxDirective):
    """How each implementation is run: the files, each after the names that it is for."""

    def run(self):
        """The files of the implementations, then what they share."""
        from bnref_gallery.conformance import IMPLEMENTATIONS, programs

        depend_on(self.env, *PROGRAMS.glob("*.py"))
        users = {}
        for name, one in IMPLEMENTATIONS.items():
            users.setdefault(programs.file_of(type(one)).stem, []).append(name)
        result = []
        for stem, text in {**users, **SHARED}.items():
            text = text if stem in SHARED else ", ".join(text)
            result.append(nodes.paragraph(text=text, ids=[f"program-{nodes.make_id(stem)}"]))
            path = PROGRAMS / f"{stem}.py"
            result += folded("The program:", path, path.read_text("utf-8"))
        return result


class CellRole(SphinxRole):
    """A cell's value, if its verdict is what the role's name says."""

    def run(self):
        """Link to the full answer."""
        name, (_, found) = tuple(part.strip() for part in self.text.split("|")), cells()
        if name not in found:
            raise ExtensionError(f"no cell {self.text!r}: write 'implementation | behaviour'")
        row = found[name]
        if VERDICTS[row["verdict"]][0] != self.name:
            raise ExtensionError(f"{self.text} is {row['verdict']}, and the page says {self.name}")
        link = nodes.reference("", shown(row["value"]), internal=True, refuri=f"#{anchor(*name)}")
        return [link], []


def setup(app):
    """Add the directives and roles."""
    app.setup_extension("tables")
    app.add_directive("conformance-table", Table)
    app.add_directive("conformance-behaviour", Behaviour)
    app.add_directive("conformance-programs", Programs)
    for kind, _ in VERDICTS.values():
        app.add_role(kind, CellRole())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
