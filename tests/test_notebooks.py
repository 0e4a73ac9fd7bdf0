"""The notebooks that the built site offers: what they say, and that they run, in a real kernel.

Three drawn at random are executed each time; all of them with ``BNREF_NOTEBOOKS=all``.
"""

import os
import random
import re

import nbformat
import pytest
from helpers import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

SITE = ROOT / "docs" / "_build" / "html"
NOTEBOOKS = sorted(SITE.glob("_downloads/*/plot_*.ipynb"))
RUN = os.environ.get("BNREF_NOTEBOOKS", "3")
# Markup of the scripts that no notebook shows: directives, and roles.
RAW = re.compile(r"^\.\. \w+::|:\w+(?::\w+)?:`", re.MULTILINE)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NOTEBOOKS, reason="the site is not built: make html"),
]


def script_of(path):
    return next(ROOT.glob(f"gallery/*/{path.stem}.py"))


def code_of(script):
    """The cells of code of a script, as sphinx-gallery cuts them."""
    _, blocks = split_code_and_text_blocks(str(script))
    settings = re.compile(r"^# sphinx_gallery_.*\n+", re.MULTILINE)  # which no page shows
    return [settings.sub("", b.content).strip("\n") for b in blocks if b.type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_pages_code_and_outputs_and_no_markup_of_the_script(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    install, *cells = notebook["cells"]
    assert "%pip install" in install["source"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    wanted = [each for each in code_of(script_of(path)) if each.strip()]
    assert [cell["source"] for cell in code] == wanted
    text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert not RAW.findall(text) and "xxcellxx" not in text
    assert text.startswith("# ")
    outputs = [output for cell in code for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert {"display_data", "stream"} <= kinds, "a figure, and what was printed"


def test_notebooks_run_from_the_first_cell_to_the_last(tmp_path, monkeypatch):
    monkeypatch.setenv("BNREF_DOWNLOAD", "0")
    chosen = NOTEBOOKS if RUN == "all" else random.SystemRandom().sample(NOTEBOOKS, int(RUN))
    print("executed:", *(path.stem for path in chosen))
    failed = []
    for path in chosen:
        try:
            try:
                execute(path, tmp_path)
            except DeadKernelError:
                # TensorFlow 2.21 now and then ends a process where `fit` runs under several
                # replicas; the build gives its pages a second chance for the same reason.
                execute(path, tmp_path)
        except (CellExecutionError, DeadKernelError) as error:
            failed.append(f"{path.name} does not run: {error}")
    assert not failed, "\n".join(failed)


def execute(path, folder):
    """Run a notebook in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
