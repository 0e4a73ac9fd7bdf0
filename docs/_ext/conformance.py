"""The conformance table: the recorded cells, and beside each the program that measured it.

``.. conformance-table::`` is the table, ``.. conformance-behaviour:: momentum`` what is asked, the
rule, all answers in full and the program, ``.. conformance-programs::`` how each implementation is
run. The roles ``agrees``, ``differs``, ``wrong`` and ``absent`` with ``implementation | behaviour``
give a cell's value, as a link, and refuse a cell of another verdict: what the page says of it is
then no longer true.
"""

import ast
import inspect
import re
from collections import Counter
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "gallery" / "bnref_gallery" / "recorded" / "conformance.csv"
PROGRAMS = ROOT / "gallery" / "bnref_gallery" / "conformance"
# A sign for each verdict, so that its colour is not needed to tell it.
VERDICTS = {
    "as the formula": ("agrees", "✓"),
    "differs by design": ("differs", "≠"),
    "wrong": ("wrong", "✗"),
    "not offered": ("absent", "–"),
}


def cells(path=None):
    """The provenance, and the cells by (implementation, behaviour): all of them, and judged."""
    from bnref_gallery import records
    from bnref_gallery.conformance import BEHAVIOURS, IMPLEMENTATIONS

    path = path or RECORD
    provenance, columns = records.read(path)
    lines = zip(*(column.tolist() for column in columns.values()), strict=True)
    rows = [dict(zip(columns, line, strict=True)) for line in lines]
    found = {(row["implementation"], row["behaviour"]): row for row in rows}
    for name, row in found.items():
        if row["verdict"] not in VERDICTS:
            known = ", ".join(VERDICTS)
            raise ExtensionError(f"{path}: verdict {row['verdict']!r} of {name}; known are {known}")
    wanted = [(i, b) for i in IMPLEMENTATIONS for b in BEHAVIOURS]
    if missing := [name for name in wanted if name not in found]:
        raise ExtensionError(f"{path} has no cell for {missing}: delete it and record it anew")
    return provenance, {name: found[name] for name in wanted}


def anchor(implementation, behaviour):
    """Where the full answer stands."""
    return f"{nodes.make_id(behaviour)}--{nodes.make_id(implementation)}"


def table(found):
    """The table as HTML, in a region that scrolls by itself and can be reached by keyboard."""
    rows = list(dict.fromkeys(i for i, _ in found))
    columns = list(dict.fromkeys(b for _, b in found))
    head = "".join(
        f'<th scope="col"><a href="#behaviour-{nodes.make_id(b)}">{escape(b)}</a></th>'
        for b in columns
    )
    body = "".join(
        f'<tr><th scope="row">{breakable(i)}</th>{"".join(td(found[i, b]) for b in columns)}</tr>'
        for i in rows
    )
    return (
        '<div class="conformance-scroll" role="region" tabindex="0" '
        'aria-label="Conformance table, scrolls sideways">'
        '<table class="table conformance"><thead>'
        f'<tr><th scope="col">implementation</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def td(row):
    """One cell: a sign, the verdict for those who hear the page, the value."""
    kind, sign = VERDICTS[row["verdict"]]
    value = escape(apostrophes(shown(row["value"])))
    return (
        f'<td class="{kind}"><a href="#{anchor(row["implementation"], row["behaviour"])}">'
        f'<span class="sign" aria-hidden="true">{sign}</span>'
        f'<span class="heard">{row["verdict"]}: </span>{value}</a></td>'
    )


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


def program(function):
    """The source of a function, after what it uses of its own module, in the file's order."""
    path = file_of(function)
    text = path.read_text("utf-8")
    defined = {name: node for node in ast.parse(text).body for name in names(node)}
    wanted, left = set(), [function.__name__]
    while left:
        wanted.add(name := left.pop())
        used = {each.id for each in ast.walk(defined[name]) if isinstance(each, ast.Name)}
        left += used & defined.keys() - wanted
    parts = sorted((defined[name] for name in wanted), key=lambda node: node.lineno)
    return "\n\n".join(ast.get_source_segment(text, node) for node in dict.fromkeys(parts))


def names(node):
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def home(implementation):
    """The file that says how an implementation is run."""
    return file_of(type(implementation))


def file_of(program):
    """The file of a class or a function in this checkout; another one may be installed."""
    return PROGRAMS / Path(inspect.getfile(program)).name


def folded(summary, path, source):
    """A program, shown when its summary is opened."""
    block = nodes.literal_block(source, source, language="python")
    label = f"{escape(summary)} <code>{escape(str(path.relative_to(ROOT)))}</code>"
    before = f'<details class="program"><summary>{label}</summary>'
    return [nodes.raw("", before, format="html"), block, nodes.raw("", "</details>", format="html")]


class Table(SphinxDirective):
    """The table, how many cells each verdict has, and how it was recorded."""

    def run(self):
        """Depend on the record."""
        from bnref_gallery import records

        note_sources(self.env)
        provenance, found = cells()
        counts = Counter(row["verdict"] for row in found.values())
        legend = ", ".join(f"{sign} {v} ({counts[v]})" for v, (_, sign) in VERDICTS.items())
        every = {each for row in found.values() for each in row["versions"].split(", ")}
        line = records.provenance_line(provenance).replace("`", "")
        return [
            nodes.paragraph(text=f"Signs, and how many of {len(found)} cells: {legend}."),
            nodes.raw("", table(found), format="html"),
            nodes.paragraph(text=f"{line} Measured: {', '.join(sorted(every))}.",
                            classes=["conformance-provenance"]),
        ]  # fmt: skip


class Behaviour(SphinxDirective):
    """What is asked, by which rule it is judged, every answer, and the program."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self):
        """Take the words from the docstring of the probe."""
        from bnref_gallery.conformance import BEHAVIOURS, IMPLEMENTATIONS

        note_sources(self.env)
        name, (_, found) = self.arguments[0], cells()
        if name not in BEHAVIOURS:
            raise self.error(f"behaviour must be one of {', '.join(BEHAVIOURS)}; received {name!r}")
        asked, *paragraphs = inspect.getdoc(BEHAVIOURS[name]).split("\n\n")
        target = nodes.paragraph("", "", nodes.strong(text=asked))
        target["ids"].append(f"behaviour-{nodes.make_id(name)}")
        self.state.document.note_explicit_target(target, target)
        words = [nodes.paragraph("", "", *self.parse_inline(shown(text.replace("\n", " ")))[0])
                 for text in paragraphs]  # fmt: skip
        answers = nodes.definition_list(classes=["conformance-answers"])
        answers += [answer(found[i, name], home(one)) for i, one in IMPLEMENTATIONS.items()]
        probe = BEHAVIOURS[name]
        source = folded("The program that asks:", file_of(probe), program(probe))
        command = f"python gallery/results/run_conformance.py --behaviour {name!r}"
        again = nodes.paragraph(
            "", "To measure it again: ", nodes.literal(text=command), nodes.Text(".")
        )
        return [target, *words, answers, again, *source]


def answer(row, path):
    """One answer in full, with a link to how the implementation is run."""
    kind, sign = VERDICTS[row["verdict"]]
    term = nodes.term("", "", nodes.literal(text=row["implementation"]))
    term["ids"].append(anchor(row["implementation"], row["behaviour"]))
    verdict = nodes.strong(text=f"{sign} {row['verdict']}", classes=[kind])
    run = nodes.reference(
        "", "How it is run", internal=True, refuri=f"#program-{nodes.make_id(path.stem)}"
    )
    text = shown(f": {row['value']}. {capital(row['details'])}. ")
    line = nodes.paragraph("", "", verdict, nodes.Text(text), run, nodes.Text("."))
    return nodes.definition_list_item("", term, nodes.definition("", line))


def capital(text):
    """The text with its first letter as at the beginning of a sentence."""
    return text[:1].upper() + text[1:]


class Programs(SphinxDirective):
    """How each implementation is run: the files, each after the names that it is for."""

    def run(self):
        """The files of the implementations, then what they share."""
        from bnref_gallery.conformance import IMPLEMENTATIONS

        note_sources(self.env)
        users = {}
        for name, one in IMPLEMENTATIONS.items():
            users.setdefault(home(one), []).append(name)
        shared = {"asking": "a step and its outcome", "formula": "the formula, in float64",
                  "replicas": "replicas of TensorFlow", "torch_process": "a process of PyTorch",
                  "__init__": "all rows and columns"}  # fmt: skip
        result = []
        for path in [*users, *(PROGRAMS / f"{stem}.py" for stem in shared)]:
            text = ", ".join(users.get(path, [])) or capital(shared[path.stem])
            line = nodes.paragraph(text=text, ids=[f"program-{nodes.make_id(path.stem)}"])
            result += [line, *folded("The program:", path, path.read_text("utf-8"))]
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


def note_sources(env):
    """Read the page again when the record or a program has changed."""
    for path in (RECORD, *PROGRAMS.glob("*.py")):
        env.note_dependency(str(path))


def add_style(app, pagename, templatename, context, doctree):
    """The style, on the page that has the table and no other."""
    if 'class="table conformance"' in context.get("body", ""):
        app.add_css_file("conformance.css")


def setup(app):
    """Add the directives and roles."""
    app.add_directive("conformance-table", Table)
    app.add_directive("conformance-behaviour", Behaviour)
    app.add_directive("conformance-programs", Programs)
    for kind, _ in VERDICTS.values():
        app.add_role(kind, CellRole())
    app.connect("html-page-context", add_style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
