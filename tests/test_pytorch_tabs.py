"""The PyTorch code of pages: it is taken out of them as it stands, and it is what was run."""

import pytest
from helpers import ROOT

from bnref_gallery import pytorch_tabs, records

PAGES = pytorch_tabs.pages()
SCRIPT = """
# %%
# Fix
# ---
# Do not.
#
# Wrong
# ^^^^^

x = 1

# %%
# Wrong, PyTorch
# ^^^^^^^^^^^^^^
# Words about it.
#
# .. code-block:: python
#
#    for x in y:
#        z(x)
#
#    w()
#
# Right, PyTorch
# ^^^^^^^^^^^^^^
# .. code-block:: python
#
#    w()
#
# Why
# ---
# Because.
"""


@pytest.fixture(scope="module")
def recorded():
    """The rows of the record as dicts."""
    _, columns = records.read(records.path_of("pytorch.csv"))
    lines = zip(*(each.tolist() for each in columns.values()), strict=True)
    return [dict(zip(columns, line, strict=True)) for line in lines]


def test_the_record_has_the_pages_with_such_code_and_no_other(recorded):
    assert {row["page"] for row in recorded} == set(PAGES)
    assert len(PAGES) >= 8


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_is_what_was_run(page, recorded):
    rows = [row for row in recorded if row["page"] == page]
    digests = {side: pytorch_tabs.digest(code) for side, code in pytorch_tabs.codes(page).items()}
    run = {side: {row["digest"] for row in rows if row["side"] == side} for side in digests}
    assert run == {side: {digest} for side, digest in digests.items()}, (
        "run gallery/results/run_pytorch.py again"
    )
    for side in digests:
        assert [row["seed"] for row in rows if row["side"] == side] == [0, 1, 2]
    assert len({(row["what"], row["unit"]) for row in rows}) == 1


@pytest.mark.parametrize("page", PAGES)
def test_the_code_is_short_and_is_python(page):
    for side, code in pytorch_tabs.codes(page).items():
        compile(code, side, "exec")
        assert len(code.splitlines()) <= 10 and max(map(len, code.splitlines())) <= 50


@pytest.fixture
def gallery(tmp_path, monkeypatch):
    """A gallery of a page with such code, and of one without."""
    monkeypatch.setattr(pytorch_tabs, "GALLERY", tmp_path)
    (tmp_path / "pitfalls").mkdir()
    (tmp_path / "pitfalls" / "plot_it.py").write_text(SCRIPT)
    (tmp_path / "pitfalls" / "plot_other.py").write_text("# PyTorch, and: Wrong, PyTorch\n")
    return tmp_path / "pitfalls" / "plot_it.py"


def test_code_is_taken_without_the_comment_that_it_stands_in(gallery):
    assert pytorch_tabs.pages() == ["pitfalls/plot_it"]
    assert pytorch_tabs.codes("pitfalls/plot_it") == {
        "Wrong": "for x in y:\n    z(x)\n\nw()",
        "Right": "w()",
    }


@pytest.mark.parametrize(
    "change",
    [
        ("Right, PyTorch", "Right, torch"),
        (".. code-block:: python\n#\n#    w()\n#\n# Why", "None.\n#\n# Why"),
    ],
)
def test_a_side_without_code_is_refused(gallery, change):
    gallery.write_text(SCRIPT.replace(*change))
    with pytest.raises(ValueError, match="pitfalls/plot_it needs a heading 'Right, PyTorch'"):
        pytorch_tabs.codes("pitfalls/plot_it")


def test_other_code_has_another_digest():
    digest = pytorch_tabs.digest("w()")
    assert len(digest) == 12 and digest == pytorch_tabs.digest("w()")
    assert digest != pytorch_tabs.digest("w() ")


def test_the_sweep_has_a_problem_for_each_page_and_names_it_in_quotes():
    sweep = (ROOT / "gallery" / "results" / "run_pytorch.py").read_text("utf-8")
    assert [page for page in PAGES if f'"{page}": Problem(' not in sweep] == []
    assert sweep.count(": Problem(") == len(PAGES)
