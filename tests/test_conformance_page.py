"""The page of the conformance table: its extension, on a small site of its own."""

import io
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[1]

import conformance as extension  # noqa: E402  (it lies in the site's folder of extensions)

from bnref_gallery.conformance import (  # noqa: E402
    BEHAVIOURS,
    IMPLEMENTATIONS,
    programs,
)


@pytest.fixture(scope="module")
def recorded():
    """The cells of the record, by (implementation, behaviour)."""
    return extension.cells()[1]


PAGE = """
Conformance
===========

A {wrong}.

.. conformance-table::
"""
SECTION = "\n{0}\n{1}\n\n.. conformance-behaviour:: {0}\n"


def built(folder, text):
    """The page of this text and its style sheets, or the error that ended the build."""
    (folder / "index.rst").write_text(text, "utf-8")
    told = io.StringIO()
    app = Sphinx(
        folder, None, folder / "out", folder / "trees", "html",
        confoverrides={"extensions": ["conformance"], "html_theme": "basic"},
        status=None, warning=told, freshenv=True,
    )  # fmt: skip
    app.build()
    lines = [line for line in told.getvalue().splitlines() if "already registered" not in line]
    return BeautifulSoup((folder / "out" / "index.html").read_text("utf-8"), "html.parser"), lines


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The whole page: the table, all behaviours, the programs."""
    text = PAGE.format(wrong=":wrong:`keras.layers.BatchNormalization | saved`")
    text += "".join(SECTION.format(name, "-" * len(name)) for name in BEHAVIOURS)
    text += "\nPrograms\n--------\n\n.. conformance-programs::\n"
    result, warnings = built(tmp_path_factory.mktemp("site"), text)
    assert warnings == []
    return result


def test_every_cell_leads_to_its_answer_and_that_to_the_program(page, recorded):
    identifiers = {tag["id"]: tag for tag in page.find_all(id=True)}
    links = page.find("table", class_="conformance").find_all("td")
    assert len(links) == len(recorded)
    for cell, ((implementation, _), row) in zip(links, recorded.items(), strict=True):
        answer = identifiers[cell.a["href"].removeprefix("#")]
        assert answer.get_text() == implementation
        said = answer.find_next("dd")
        assert row["verdict"] in said.get_text()
        assert extension.apostrophes(extension.shown(row["value"])) in said.get_text()
        program = identifiers[said.a["href"].removeprefix("#")]
        assert (
            f"class {type(IMPLEMENTATIONS[implementation]).__name__}"
            in program.find_next("pre").text
        )
    for link in page.find("table", class_="conformance").thead.find_all("a"):
        assert link["href"].removeprefix("#") in identifiers


def test_each_behaviour_has_its_question_its_rule_and_the_program_that_asks(page):
    for name, probe in BEHAVIOURS.items():
        asked = page.find(id=f"behaviour-{name.replace(' ', '-')}")
        assert asked.get_text() == extension.apostrophes(probe.__doc__.split("\n")[0])
        program = asked.find_next("details", class_="program").find("pre").get_text()
        assert f"def {probe.__name__}(implementation: Implementation)" in program
        assert "s the formula" in asked.parent.get_text()


def test_the_table_can_be_read_without_colours_and_scrolled_by_keyboard(page, recorded):
    region = page.find(class_="conformance-scroll")
    assert region["tabindex"] == "0" and region["role"] == "region" and region["aria-label"]
    assert all(th["scope"] in ("row", "col") for th in region.find_all("th"))
    for cell, row in zip(region.find_all("td"), recorded.values(), strict=True):
        kind, sign = extension.VERDICTS[row["verdict"]]
        assert cell["class"] == [kind] and cell.find(class_="sign").get_text() == sign
        assert cell.find(class_="heard").get_text() == f"{row['verdict']}: "
    assert any("conformance.css" in link["href"] for link in page.find_all("link", href=True))


def test_a_value_in_a_sentence_leads_to_its_cell(page, recorded):
    link = page.find("p", string=None).find("a")
    value = recorded["keras.layers.BatchNormalization", "saved"]["value"]
    assert link.get_text() == extension.apostrophes(value)
    assert link["href"] == "#saved--keras-layers-batchnormalization"


@pytest.mark.parametrize(
    "role, message",
    [
        (":agrees:`keras.layers.BatchNormalization | saved`", "is wrong, and the page says agrees"),
        (":wrong:`keras.layers.BatchNorm | saved`", "no cell 'keras.layers.BatchNorm | saved'"),
    ],
)
def test_a_sentence_that_is_not_true_any_more_ends_the_build(tmp_path, role, message):
    with pytest.raises(ExtensionError, match=re.escape(message)):
        built(tmp_path, PAGE.format(wrong=role))


def test_an_unknown_behaviour_is_an_error_with_those_that_are_known(tmp_path):
    _, warnings = built(tmp_path, SECTION.format("colour", "------"))
    assert any("received 'colour'" in line and "large mean" in line for line in warnings)


def altered(path, old, new):
    """A copy of the record with one cell changed."""
    text = extension.RECORD.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    return path


def test_an_unknown_verdict_in_the_record_is_refused(tmp_path):
    path = altered(tmp_path / "a.csv", "frozen,as the formula", "frozen,fine")
    with pytest.raises(
        ExtensionError, match="a.csv: unknown verdict 'fine'; known are as the formula, .*'frozen'"
    ):
        extension.cells(path)


def test_a_record_that_lacks_a_cell_is_refused(tmp_path):
    path = altered(tmp_path / "a.csv", "bnref.BatchNorm,mask", "bnref.BatchNorm,masks")
    with pytest.raises(ExtensionError, match=r"no cell for \[\('bnref.BatchNorm', 'mask'\)\]"):
        extension.cells(path)


def test_a_program_is_shown_with_what_it_uses_and_nothing_else():
    shown = programs.program(BEHAVIOURS["variance remembered"])
    assert (
        shown.index("def variance_kept") < shown.index("def ratio_kept") < shown.index("def kind")
    )
    assert "BATCH = " in shown and "def saved" not in shown and "import" not in shown


def test_powers_of_ten_are_written_as_such():
    assert extension.shown("error 2e-07; n/(n − 1)") == "error 2·10⁻⁷; n/(n\u00a0−\u00a01)"


def test_names_break_where_a_reader_would_break_them():
    found = extension.breakable("tf_keras.layers.BatchNormalization(fused=False)")
    assert found.split("<wbr>") == [
        "tf_",
        "keras.",
        "layers.",
        "Batch",
        "Normalization",
        "(",
        "fused",
        "=False)",
    ]
