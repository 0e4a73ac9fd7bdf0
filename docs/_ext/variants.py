"""The table of variants, made from the layers themselves: which hook each overrides, and its words.

The first line of a hook's docstring asks the question and answers it, so the table says what the
code says.
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
    "normalizing_moments": "Used when?",
}


def rows():
    """One row a layer: its name, the three answers (its own in bold), paper, file, page."""
    from bnref import layers

    classes = [getattr(layers, name) for name in layers.__all__]
    classes.sort(key=lambda cls: (len(cls.__mro__), cls.__name__))
    for cls in classes:
        answers = [answer(cls, hook, question) for hook, question in HOOKS.items()]
        path = Path(inspect.getfile(cls)).name
        yield [f":py:class:`~bnref.layers.{cls.__name__}`", *answers, papers(cls),
               f"``{path}``", page(cls)]  # fmt: skip


def answer(cls, hook, question):
    """What the hook's docstring answers; in bold where the class answers differently."""
    line = inspect.getdoc(getattr(cls, hook)).splitlines()[0]
    if not line.startswith(question):
        raise ValueError(f"{cls.__name__}.{hook}: the docstring must begin with {question!r}")
    text = line.removeprefix(question).strip()
    return f"**{text}**" if hook in vars(cls) and cls.__mro__[1].__name__ != "Layer" else text


def papers(cls):
    """The arXiv numbers that the class's docstring names."""
    return ", ".join(dict.fromkeys(re.findall(r"(?<=arXiv )\d{4}\.\d{5}", cls.__doc__))) or "—"


def page(cls):
    """The gallery page about the layer, if there is one."""
    for script in sorted((ROOT / "gallery" / "variants").glob("plot_*.py")):
        if cls.__name__ in script.read_text():
            return f":doc:`/gallery/variants/{script.stem}`"
    return "—"


class VariantsTable(SphinxDirective):
    """``.. variants-table::``: the table, as a list-table."""

    def run(self):
        """Parse the rows as reStructuredText, so that names link to the reference."""
        header = ["Variant", *HOOKS.values(), "Paper (arXiv)", "File", "Page"]
        text = [".. list-table::", "   :header-rows: 1", "   :class: variants", ""]
        for row in [header, *rows()]:
            text += [f"   {'*' if not i else ' '} - {cell}" for i, cell in enumerate(row)]
        for path in (ROOT / "bnref" / "layers").glob("*.py"):
            self.env.note_dependency(str(path))
        node = nodes.container(classes=["table-wide"])
        self.state.nested_parse(StringList(text, source="variants-table"), 0, node)
        return [node]


def setup(app):
    """Add the directive."""
    app.add_directive("variants-table", VariantsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
