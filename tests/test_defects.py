"""The extension that tells a page's reader where a defect was seen, on a small site of its own."""

import io
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]

import defects  # noqa: E402  (it lies in the site's folder of extensions)

INDEX = """
Home
====

.. defects::

.. toctree::
   :glob:

   upstream/*
   gallery/*/*
"""
DEFECTS = """
[claws]
seen_on = { keras = "3.15.1", tensorflow = "2.21.0" }
pages = ["pitfalls/plot_cat"]

[barks]
seen_on = { tensorflow = "2.21.0" }
pages = ["pitfalls/plot_dog"]
fixed_in = "2.22"
"""
BITE = """
[bite]
seen_on = { keras = "3.15.1" }
pages = ["pitfalls/plot_cat"]
"""


def heading(title):
    return f"{title}\n{'=' * len(title)}\n\nThe answer.\n"


class Site:
    """Pages, reports and the file of defects; built as often as asked."""

    def __init__(self, folder):
        self.folder, self.warnings, self.file = folder, "", folder / "defects.toml"
        self.write("index", INDEX)
        for name in ("cat", "dog", "eel"):
            self.write(f"gallery/pitfalls/plot_{name}", heading(f"Of {name}s"))
        self.write("upstream/claws", heading("Claws scratch"))
        self.write("upstream/barks", heading("Barks at night"))
        self.file.write_text(DEFECTS, "utf-8")

    def change(self, old, new):
        assert old in DEFECTS
        self.file.write_text(DEFECTS.replace(old, new), "utf-8")

    def write(self, name, text):
        path = self.folder / "docs" / f"{name}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def build(self, *, fresh=True):
        told, docs = io.StringIO(), self.folder / "docs"
        settings = {"extensions": ["defects"], "html_theme": "basic"}
        app = Sphinx(
            docs, None, self.folder / "out", self.folder / "trees", "html",
            confoverrides=settings, status=None, warning=told, freshenv=fresh,
        )  # fmt: skip
        app.build()
        # A second Sphinx in one process finds its own nodes there already.
        lines = told.getvalue().splitlines()
        self.warnings = "\n".join(line for line in lines if "already registered" not in line)
        return self

    def page(self, name):
        text = (self.folder / "out" / f"{name}.html").read_text("utf-8")
        return BeautifulSoup(text, "html.parser")

    def note(self, name):
        notes = self.page(name).find_all("div", class_="defect")
        return [" ".join(note.get_text().split()) for note in notes]

    def table(self):
        rows = self.page("index").find("table", class_="defects").find("tbody").find_all("tr")
        return [[" ".join(cell.get_text().split()) for cell in row("td")] for row in rows]


@pytest.fixture
def site(tmp_path, monkeypatch):
    site = Site(tmp_path)
    monkeypatch.setattr(defects.props, "FILE", site.file)
    return site


def test_a_page_says_under_its_title_where_its_defect_was_seen_and_leads_to_the_report(site):
    site.build()
    assert site.warnings == ""
    assert site.note("gallery/pitfalls/plot_cat") == [
        "Seen on Keras 3.15.1 with TensorFlow 2.21.0. Not fixed in a version known to this site. "
        "Report."
    ]
    note = site.page("gallery/pitfalls/plot_cat").find("div", class_="defect")
    assert note.a["href"] == "../../upstream/claws.html"
    assert note.find_previous_sibling().name == "h1"
    assert note.find_next_sibling("p").get_text() == "The answer."
    assert site.note("gallery/pitfalls/plot_eel") == [] == site.note("index")


def test_a_defect_that_was_fixed_is_told_as_such_on_page_report_and_in_the_table(site):
    site.build()
    assert site.note("gallery/pitfalls/plot_dog") == [
        "Fixed in TensorFlow 2.22. The text says what TensorFlow 2.21.0 did; the figures are the "
        "installed version's. Report."
    ]
    assert site.note("upstream/barks") == [
        "Fixed in TensorFlow 2.22. The text says what TensorFlow 2.21.0 did. Asserted by Of dogs."
    ]
    assert site.table() == [
        ["Claws scratch Keras 3.15.1 with TensorFlow 2.21.0", "—", "Of cats"],
        ["Barks at night TensorFlow 2.21.0", "TensorFlow 2.22", "Of dogs"],
    ]


def test_one_changed_line_mends_page_report_and_table(site):
    site.build()
    site.change("[barks]", 'fixed_in = "3.16"\n[barks]')
    site.build(fresh=False)
    assert site.note("gallery/pitfalls/plot_cat")[0].startswith("Fixed in Keras 3.16. The text")
    assert site.note("upstream/claws")[0].startswith("Fixed in Keras 3.16. The text")
    assert site.table()[0][1] == "Keras 3.16"


def test_a_defect_that_two_pages_show_has_one_row_with_both(site):
    site.change('"pitfalls/plot_cat"', '"pitfalls/plot_cat", "pitfalls/plot_eel"')
    site.build()
    assert site.warnings == ""
    assert site.table()[0][2] == "Of cats, Of eels"
    assert len(site.table()) == 2
    assert site.note("upstream/claws")[0].endswith("Asserted by Of cats, Of eels.")
    for name in ("cat", "eel"):
        assert site.note(f"gallery/pitfalls/plot_{name}")[0].startswith("Seen on Keras 3.15.1")


def test_a_page_with_two_defects_says_both(site):
    site.change("[claws]", f"{BITE}[claws]")
    site.write("upstream/bite", heading("Bites"))
    note = site.build().page("gallery/pitfalls/plot_cat").find("div", class_="defect")
    assert note.get_text().count("Seen on Keras 3.15.1") == 2
    assert [link["href"].rpartition("/")[2] for link in note("a")] == ["bite.html", "claws.html"]


@pytest.mark.parametrize(
    "old, new, warning",
    [
        ("[claws]", f"{BITE}[claws]",
         "gallery/pitfalls/plot_cat.rst:2: WARNING: unknown document: '/upstream/bite'"),
        ("plot_cat", "plot_ape", "WARNING: unknown document: '/gallery/pitfalls/plot_ape'"),
        ("[claws]", "[scratches]",
         "upstream/claws.rst: WARNING: {file} has no defect of this name"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_warning(site, old, new, warning):
    site.change(old, new)
    assert warning.format(file=site.file) in site.build().warnings
