"""The symptom finder's extension, on a small site of its own."""

import io
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

from bnref.doctor import CHECKS
from bnref.doctor.checks import _check
from bnref_gallery import records

ROOT = Path(__file__).resolve().parents[1]

HOME = """
Home
====

.. symptom-groups::

.. toctree::
   :glob:

   symptoms
   gallery/*/*
"""
FINDER = """
Finder
======

.. finder-controls::

No luck
-------

.. causes:: no luck
   :words: misfortune
   :group: Bad

Too much
--------

.. causes:: too much
   :words: plenty
"""
ENTRY = """
.. symptom:: {name}
   :cause: {cause}
   :check: look at ``{cause}``
   :likelihood: {likelihood}
   :question: {question}
"""


DOCTORS = """
.. symptom:: {name}
   :doctor: large_mean
   :check: look at σ
{more}
"""


def page(title, *entries):
    """A page of entries: their text, or what the text of one says."""
    texts = (each if isinstance(each, str) else ENTRY.format(**each) for each in entries)
    return "\n".join([title, "=" * len(title), "", *texts])


def doctors(name="NaN or infinity", more=""):
    """An entry that leaves the rest to a check of the doctor."""
    return DOCTORS.format(name=name, more=more)


def entry(name="no luck", cause="a cat", likelihood="often", question="2"):
    return {"name": name, "cause": cause, "likelihood": likelihood, "question": question}


PAGES = {
    "index": HOME,
    "symptoms": FINDER,
    "gallery/pitfalls/cat": page(
        "Of cats", entry(), entry("too much", "two cats", question="none")
    ),
    "gallery/pitfalls/dog": page("Of dogs", entry(cause="a dog", likelihood="usual", question="3")),
    "gallery/variants/eel": page("Of eels", entry(cause="an eel", likelihood="seldom")),
    "gallery/variants/fox": "Of foxes\n========\n",
}


class Site:
    """A folder of pages, built as often as asked."""

    def __init__(self, folder):
        self.folder, self.warnings = folder, ""
        for name, text in PAGES.items():
            self.write(name, text)

    def write(self, name, text):
        path = self.folder / f"{name}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def build(self, *, fresh=True):
        told = io.StringIO()
        app = Sphinx(
            self.folder, None, self.folder / "out", self.folder / "trees", "html",
            confoverrides={"extensions": ["finder"], "html_theme": "basic"},
            status=None, warning=told, freshenv=fresh,
        )  # fmt: skip
        app.build()
        # A second Sphinx in one process finds its own nodes there already.
        lines = told.getvalue().splitlines()
        self.warnings = "\n".join(line for line in lines if "already registered" not in line)
        return self

    def page(self, name):
        return BeautifulSoup(
            (self.folder / "out" / f"{name}.html").read_text("utf-8"), "html.parser"
        )

    def causes(self, section="no-luck"):
        rows = self.page("symptoms").find(id=section).find("table").find("tbody").find_all("tr")
        return [[cell.get_text(" ", strip=True) for cell in row.find_all("td")] for row in rows]


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_the_finder_lists_causes_the_likeliest_first_with_check_question_and_page(site):
    site.build()
    assert site.warnings == ""
    assert site.causes() == [
        ["a dog usual ; question 3, used when", "look at a dog", "Of dogs"],
        ["a cat often ; question 2, remembered how", "look at a cat", "Of cats"],
        ["an eel seldom ; question 2, remembered how", "look at an eel", "Of eels"],
    ]
    assert site.causes("too-much") == [["two cats often", "look at two cats", "Of cats"]]
    links = [a["href"] for a in site.page("symptoms").find(id="no-luck").table.find_all("a")]
    assert links == [
        f"gallery/{name}.html" for name in ("pitfalls/dog", "pitfalls/cat", "variants/eel")
    ]


def test_the_home_page_has_all_symptoms_by_groups_each_with_its_likeliest_cause(site):
    groups = site.build().page("index").find(class_="symptom-groups").find_all("div")
    assert [group.get_text(" ", strip=True) for group in groups] == [
        "Bad No luck : a dog , or 2 more",
        "Others Too much : two cats",
    ]
    links = {a.get_text(): a["href"] for group in groups for a in group.find_all("a")}
    assert links["No luck"] == "symptoms.html#no-luck"
    assert links["Too much"] == "symptoms.html#too-much"
    assert links["a dog"] == "gallery/pitfalls/dog.html"
    picks = site.page("symptoms").find(class_="symptom-picks").find_all("a")
    assert [a["href"] for a in picks] == ["#no-luck", "#too-much"]


def test_a_page_says_its_symptom_and_leads_back_to_the_finder(site):
    boxes = site.build().page("gallery/pitfalls/cat").find_all(class_="symptom")
    assert [box.get_text(" ", strip=True) for box in boxes] == [
        "You see: no luck To check: look at a cat",
        "You see: too much To check: look at two cats",
    ]
    assert boxes[1].a["href"] == "../../symptoms.html#too-much"


def test_a_reference_in_a_cause_leads_to_its_page_from_the_finder_too(site):
    cause = ":doc:`a cat </gallery/pitfalls/cat>`"
    site.write("gallery/variants/fox", page("Of foxes", entry(cause=cause)))
    (row,) = site.build().page("symptoms").find("a", string="Of foxes").find_parents("tr")
    assert row.td.a["href"] == "gallery/pitfalls/cat.html"


def test_a_new_page_appears_in_the_finder_by_itself_and_a_removed_one_goes(site):
    site.build()
    site.write("gallery/pitfalls/ant", page("Of ants", entry(cause="an ant", likelihood="usual")))
    site.build(fresh=False)
    assert [row[2] for row in site.causes()] == ["Of ants", "Of dogs", "Of cats", "Of eels"]
    assert "an ant" in site.page("index").get_text()
    (site.folder / "gallery" / "pitfalls" / "dog.rst").unlink()
    site.build(fresh=False)
    assert [row[2] for row in site.causes()] == ["Of ants", "Of cats", "Of eels"]


OF_CHECKS = [name for name, each in CHECKS.items() if "NaN or infinity" in each.symptoms]


def test_a_cause_that_the_doctor_knows_is_made_of_its_check(site):
    """And what pages say of it is added to its row: how it comes about, and a check by hand."""
    assert len(OF_CHECKS) >= 4 and "large_mean" in OF_CHECKS
    site.write("symptoms", FINDER + "\nNaN\n---\n\n.. causes:: NaN or infinity\n")
    for name in {CHECKS[each].page for each in OF_CHECKS}:
        site.write(name, page(name.rpartition("_")[2], doctors()))
    site.write("gallery/variants/fox", page("Of foxes", doctors(more="   :cause: of a fox")))
    rows = {row[0].partition(": its check")[0]: row for row in site.build().causes("nan")}
    assert site.warnings == "" and len(rows) == len(OF_CHECKS)
    for name in OF_CHECKS:
        check = CHECKS[name]
        (text,) = [each for each in rows if each.startswith(check.cause.replace("``", "")[:40])]
        cause, by, pages = rows[text]
        assert f"question {check.question}, " in cause
        assert check.symptoms["NaN or infinity"] in cause
        assert re.search(r"fires on \d+ of \d+ broken models, silent on \d+ of \d+ healthy", cause)
        assert by.startswith(f'bnref.doctor.examine(model, data, only=["{name}"])')
        assert ("of a fox" in cause) == ("Of foxes" in pages) == (name == "large_mean")
    order = ["sometimes", "seldom"]
    said = [next(each for each in order if f" {each} ;" in row[0]) for row in rows.values()]
    assert said == sorted(said, key=order.index)


def test_every_check_is_in_the_finder_and_has_been_recorded():
    text = (ROOT / "docs" / "symptoms.md").read_text("utf-8")
    known = re.findall(r"^```{causes} (.+)$", text, re.M)
    assert len(known) >= 15
    _, columns = records.read(records.path_of("doctor.csv"))
    for check in CHECKS.values():
        assert set(check.symptoms) <= set(known), check.name
        assert check.name in columns["planted"], check.name


@pytest.mark.parametrize("symptoms", [{}, {"validation jumps": "maybe"}])
def test_a_check_without_a_symptom_or_likelihood_is_refused(symptoms):
    with pytest.raises(ValueError, match="symptoms must each have one of"):
        _check.check(1, "learn/index", symptoms=symptoms)


@pytest.mark.parametrize(
    "name, text, warning",
    [
        ("gallery/variants/fox", page("Fox", entry("bad luck")),
         "fox.rst:: WARNING: the finder has no symptom 'bad luck'"),
        ("gallery/pitfalls/cat", page("Of cats", entry()), "no page has the symptom 'too much'"),
        ("gallery/pitfalls/ant", "Ants\n====\n", "a pitfall page without '.. symptom::'"),
        ("gallery/variants/fox", "Fox\n===\n\n.. symptom:: no luck\n   :cause: a fox\n",
         "symptom lacks check, likelihood, question"),
        ("gallery/variants/fox", page("Fox", doctors("no luck")),
         "the check large_mean does not have the symptom 'no luck'"),
        ("gallery/variants/fox", page("Fox", doctors(more="   :question: 3")),
         "the check large_mean says question: leave it to that"),
        ("gallery/variants/fox", page("Fox", entry(likelihood="maybe")), '"maybe" unknown'),
        ("gallery/variants/fox", page("Fox", entry(question="4")), '"4" unknown'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_warning(site, name, text, warning):
    site.write(name, text)
    assert warning in site.build().warnings
