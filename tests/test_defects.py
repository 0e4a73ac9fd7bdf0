"""The extension that tells a page's reader where a defect was seen, on a small site of its own."""

import io
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

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
SEEN = '{"keras": "3.15.1", "tensorflow": "2.21.0"}'
CALL = """from bnref_gallery import defects
if defects.defect({!r}, 1 > 0, seen_on={}, fixed_in={!r}): 1
"""


def heading(title):
    return f"{title}\n{'=' * len(title)}\n\nThe answer.\n"


class Site:
    """Pages, and beside them the scripts that they were made of; built as often as asked."""

    def __init__(self, folder):
        self.folder, self.warnings = folder, ""
        self.write("index", INDEX)
        for name in ("cat", "dog", "eel"):
            self.write(f"gallery/pitfalls/plot_{name}", heading(f"Of {name}s"))
        self.write("upstream/claws", heading("Claws scratch"))
        self.write("upstream/barks", heading("Barks at night"))
        self.script("cat", CALL.format("claws", SEEN, None))
        self.script("dog", CALL.format("barks", '{"tensorflow": "2.21.0"}', "2.22"))
        self.script("eel", "defects = 'not a call'\n")

    def write(self, name, text):
        path = self.folder / "docs" / f"{name}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def script(self, name, text):
        path = self.folder / "gallery" / "pitfalls" / f"plot_{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def build(self, *, fresh=True):
        told, docs = io.StringIO(), self.folder / "docs"
        settings = {"extensions": ["defects"], "html_theme": "basic"}
        settings["defects_gallery"] = str(self.folder / "gallery")
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
def site(tmp_path):
    return Site(tmp_path)


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
    site.script("cat", CALL.format("claws", SEEN, "3.16"))
    site.build(fresh=False)
    assert site.note("gallery/pitfalls/plot_cat")[0].startswith("Fixed in Keras 3.16. The text")
    assert site.note("upstream/claws")[0].startswith("Fixed in Keras 3.16. The text")
    assert site.table()[0][1] == "Keras 3.16"


def test_a_defect_that_two_pages_show_has_one_row_with_both(site):
    site.script("eel", CALL.format("claws", SEEN, None))
    site.build()
    assert site.warnings == ""
    assert site.table()[0][2] == "Of cats, Of eels"
    assert len(site.table()) == 2
    assert site.note("upstream/claws")[0].endswith("Asserted by Of cats, Of eels.")


def test_a_page_with_two_defects_says_both(site):
    site.script("eel", CALL.format("claws", SEEN, None) + CALL.format("bite", SEEN, None))
    site.write("upstream/bite", heading("Bites"))
    note = site.build().page("gallery/pitfalls/plot_eel").find("div", class_="defect")
    assert note.get_text().count("Seen on Keras 3.15.1") == 2
    assert [link["href"].rpartition("/")[2] for link in note("a")] == ["bite.html", "claws.html"]


@pytest.mark.parametrize(
    "change, warning",
    [
        (lambda site: site.script("eel", CALL.format("bite", SEEN, None)),
         "gallery/pitfalls/plot_eel.rst: WARNING: no report docs/upstream/bite.md"),
        (lambda site: site.script("eel", CALL.format("claws", SEEN, "3.16")),
         "plot_eel.rst: WARNING: says of claws otherwise than gallery/pitfalls/plot_cat"),
        (lambda site: site.script("cat", ""),
         "upstream/claws.rst: WARNING: no page asserts this defect"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_warning(site, change, warning):
    change(site)
    assert warning in site.build().warnings


@pytest.mark.parametrize(
    "call",
    [
        "defect(name, True, seen_on={'keras': '3.15.1'})",
        "defects.defect('a', True, seen_on=SEEN)",
        "defects.defect('a', True, seen_on=None)",
        "defects.defect('a', True)",
        "defects.defect('a', True, seen_on={'keras': '3.15.1'}, fixed_in=FIXED)",
        "defects.defect(shows=True, seen_on={'keras': '3.15.1'})",
    ],
)
def test_a_call_that_cannot_be_read_names_page_and_line(tmp_path, call):
    (tmp_path / "pitfalls").mkdir()
    (tmp_path / "pitfalls" / "plot_a.py").write_text(f"x = 1\n{call}\n")
    with pytest.raises(ExtensionError, match="plot_a.py, line 2: the site reads defect"):
        defects.defects(tmp_path)
