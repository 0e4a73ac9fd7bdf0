"""The tables of variants: what each layer does differently, and where to read about it.

What a layer does is taken from the code: which hooks it overrides, and the first line of each
hook's docstring, which asks the question and answers it. What code cannot say stands in
``docs/variants.csv``: the papers, the page, and for a function the question that it answers.
"""

import csv
import inspect
import pkgutil
from pathlib import Path

from docutils import nodes
from project import ROOT, depend_on
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from tables import list_table

FILE = ROOT / "docs" / "variants.csv"
HOOKS = {
    "batch_moments": "Whose statistics?",
    "update_population": "Remembered how?",
    "training_moments": "Used when? In training",
    "inference_moments": "Used when? At inference",
}
LAYERS = ["Variant", "Statistics in training", "Statistics at inference", "Question"]
FUNCTIONS = ["Function", "What it does", "Question"]
WHERE = ["Paper (arXiv)", "File", "Page"]


def listed(of_layers):
    """The lines of the file about layers, or about functions, as dicts by name."""
    with FILE.open(encoding="utf-8", newline="") as lines:
        rows = {row["name"]: row for row in csv.DictReader(lines)}
    return {name: row for name, row in rows.items() if name.startswith("layers.") == of_layers}


def layer_rows():
    """One row a layer: its name, whose statistics it uses when (its own words in bold), where."""
    from bnref import layers

    about = listed(of_layers=True)
    names = {f"layers.{name}" for name in layers.__all__}
    if different := about.keys() ^ names:
        raise ExtensionError(f"{FILE}, or bnref.layers.__all__, lacks {', '.join(different)}")
    classes = [getattr(layers, name) for name in layers.__all__]
    for cls in sorted(classes, key=lambda cls: (questions(cls), cls.__name__)):
        row = about[f"layers.{cls.__name__}"]
        numbers = ", ".join(map(str, questions(cls))) or "—"
        name = f":py:class:`~bnref.{row['name']}`"
        yield [name, *statistics(cls), numbers, *where(cls, row)]


def function_rows():
    """One row a function that stands for a variant without a layer of its own."""
    for name, row in listed(of_layers=False).items():
        try:
            function = pkgutil.resolve_name(f"bnref.{name}")
        except (AttributeError, ImportError) as error:
            raise ExtensionError(f"{FILE} has {name}, which bnref has not") from error
        first, *_ = inspect.getdoc(function).splitlines()
        yield [f":py:func:`~bnref.{name}`", first, row["question"], *where(function, row)]


def where(found, row):
    """The papers, the file, and the page."""
    file = Path(inspect.getfile(found)).name
    return [row["papers"], f"``{file}``", f":doc:`/{row['page']}`"]


def statistics(cls):
    """What normalizes in training and at inference, each in bold where the class differs."""
    from bnref import BatchNorm

    whose, remembered, training, inference = (answer(cls, hook) for hook in HOOKS)
    return (
        whose if cls.training_moments is BatchNorm.training_moments else training,
        remembered if cls.inference_moments is BatchNorm.inference_moments else inference,
    )


def questions(cls):
    """The numbers of the questions that a class answers differently from its parent."""
    if cls.__name__ == "BatchNorm":
        return []
    own = [number for number, hook in enumerate(HOOKS, start=1) if hook in vars(cls)]
    return list(dict.fromkeys(min(number, 3) for number in own))


def answer(cls, hook):
    """What the hook's docstring answers; in bold where the class answers differently."""
    line = inspect.getdoc(getattr(cls, hook)).splitlines()[0]
    text = line.removeprefix(HOOKS[hook]).strip()
    text = f"{text[:1].upper()}{text[1:]}"
    return f"**{text}**" if hook in vars(cls) and questions(cls) else text


class VariantsTable(SphinxDirective):
    """``.. variants-table:: layers`` (or ``functions``): the table."""

    required_arguments = 1

    def run(self):
        """Let names link to the reference, and pages be called by their titles."""
        depend_on(self.env, FILE, *(ROOT / "bnref").rglob("*.py"))
        if self.arguments[0] == "layers":
            rows = [[*LAYERS, *WHERE], *layer_rows()]
        else:
            rows = [[*FUNCTIONS, *WHERE], *function_rows()]
        return [nodes.container("", *list_table(self, "variants", rows), classes=["table-wide"])]


def setup(app):
    """Add the directive."""
    app.add_directive("variants-table", VariantsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
