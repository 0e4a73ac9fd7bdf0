"""The tables of variants, made from the code itself: which hook each layer overrides, its words.

The first line of a hook's docstring asks the question and answers it, so the table says what the
code says. Functions that stand for a variant say in their docstring which question they answer.
"""

import inspect
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
HOOKS = {
    "batch_moments": "Whose statistics?",
    "update_population": "Remembered how?",
    "training_moments": "Used when? In training",
    "inference_moments": "Used when? At inference",
}
LAYERS = ["Variant", "Statistics in training", "Statistics at inference", "Question"]
FUNCTIONS = ["Function", "What it does", "Question"]
WHERE = ["Paper (arXiv)", "File", "Page"]


def layer_rows():
    """One row a layer: its name, whose statistics it uses when (its own words in bold), where."""
    from bnref import layers

    classes = [getattr(layers, name) for name in layers.__all__]
    classes.sort(key=lambda cls: (questions(cls), cls.__name__))
    for cls in classes:
        numbers = ", ".join(map(str, questions(cls))) or "—"
        name = f":py:class:`~bnref.layers.{cls.__name__}`"
        yield [name, *statistics(cls), numbers, *where(cls)]


def function_rows():
    """One row a function that stands for a variant without a layer of its own."""
    from bnref import folding, population, tf1

    for function in (population.recompute, folding.fold, *tf1.METHODS.values()):
        first, *_ = inspect.getdoc(function).splitlines()
        numbers = re.findall(r"[Qq]uestion (\d)", function.__doc__)
        module = function.__module__.partition("._")[0]  # the package that passes it on
        name = f":py:func:`~{module}.{function.__name__}`"
        name = name.replace(".posted", "")
        place = where(function)
        if function in tf1.METHODS.values():  # one page has all four, by their numbers
            place[-1] = page("tf1.METHODS")
        yield [name, first, ", ".join(dict.fromkeys(numbers)) or "—", *place]


def statistics(cls):
    """What normalizes in training and at inference, each in bold where the class differs."""
    answers = [answer(cls, hook, question) for hook, question in HOOKS.items()]
    whose, remembered, training, inference = answers
    return (
        whose if training == "The batch's." else training,
        remembered if inference == "The population's." else inference,
    )


def questions(cls):
    """The numbers of the questions that a class answers differently from its parent."""
    if cls.__name__ == "BatchNorm":
        return []
    own = [number for number, hook in enumerate(HOOKS, start=1) if hook in vars(cls)]
    return list(dict.fromkeys(min(number, 3) for number in own))


def answer(cls, hook, question):
    """What the hook's docstring answers; in bold where the class answers differently."""
    line = inspect.getdoc(getattr(cls, hook)).splitlines()[0]
    if not line.startswith(question):
        raise ValueError(f"{cls.__name__}.{hook}: the docstring must begin with {question!r}")
    text = line.removeprefix(question).strip()
    text = f"{text[:1].upper()}{text[1:]}"
    return f"**{text}**" if hook in vars(cls) and questions(cls) else text


def where(found):
    """The papers that a docstring names, the file, and the page that is about it."""
    papers = dict.fromkeys(re.findall(r"arXiv\s+(\d{4}\.\d{4,5})", found.__doc__))
    return [
        ", ".join(papers) or "—",
        f"``{Path(inspect.getfile(found)).name}``",
        page(found.__name__),
    ]


def page(name):
    """The gallery page that names it most often, if one does: a variant's, before all others."""
    if name == "BatchNorm":  # every page names it
        return ":doc:`/learn/what_it_computes`"
    word = re.compile(rf"\b{re.escape(name)}\b")
    for folder in ("variants", "*"):
        scripts = sorted((ROOT / "gallery").glob(f"{folder}/plot_*.py"))
        counts = {script: len(word.findall(script.read_text("utf-8"))) for script in scripts}
        best = max(counts, key=counts.get, default=None)
        if best and counts[best]:
            return f":doc:`/gallery/{best.parent.name}/{best.stem}`"
    return "—"


class VariantsTable(SphinxDirective):
    """``.. variants-table:: layers`` (or ``functions``): the table, as a list-table."""

    required_arguments = 1

    def run(self):
        """Parse the rows as reStructuredText, so that names link to the reference."""
        of_layers = self.arguments[0] == "layers"
        header, rows = (LAYERS, layer_rows()) if of_layers else (FUNCTIONS, function_rows())
        text = [".. list-table::", "   :header-rows: 1", "   :class: variants", ""]
        for row in [[*header, *WHERE], *rows]:
            text += [f"   {'*' if not i else ' '} - {cell}" for i, cell in enumerate(row)]
        for folder in ("bnref", "gallery"):
            for path in (ROOT / folder).rglob("*.py"):
                self.env.note_dependency(str(path))
        node = nodes.container(classes=["table-wide"])
        self.state.nested_parse(StringList(text, source="variants-table"), 0, node)
        return [node]


def setup(app):
    """Add the directive."""
    app.add_directive("variants-table", VariantsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
