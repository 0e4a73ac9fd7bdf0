"""What makes a page of a script: claims, Wrong and Right, figures' texts, links, notebooks."""

import io
import json
import re
import runpy
from types import SimpleNamespace

import addresses
import alternative_texts
import answer_first
import api_reference
import claimed
import fixes
import gallery_cards
import matplotlib.pyplot as plt
import nbformat
import new_page
import notebooks
import numpy as np
import pytest
import ran_in_pytorch
import see_also
import told_to_others
from bs4 import BeautifulSoup
from helpers import ROOT
from matplotlib.figure import Figure
from PIL import Image
from sphinx.application import Sphinx

from bnref_gallery import claims, pytorch_tabs, records

ORDER = ["Check", "Fix", "Why", "Experiment", "Proof"]
# The headings of cells; those of Wrong and Right lie deeper.
HEADINGS = re.compile(r"^# (.+)\n# -+$", re.MULTILINE)
TO_THE_CONTRACT = [
    path
    for path in sorted((ROOT / "gallery" / "pitfalls").glob("plot_*.py"))
    if "\n# Proof\n" in path.read_text("utf-8")
]
CLAIM = {
    "values": [0.91, 0.94, 0.97],
    "says": "test accuracy",
    "bounds": "each is above 0.9",
    "above": 0.9,
    "below": None,
}


@pytest.fixture
def claim(monkeypatch):
    monkeypatch.setattr(claims, "_held", {})
    return claims.claim


def test_a_claim_that_holds_is_printed_and_kept(claim, capsys):
    claim("named", [0.91, 0.97], "test accuracy", above=0.9)
    assert capsys.readouterr().out == (
        "test accuracy: 0.94 (0.91 to 0.97, 2 values); each is above 0.9, as claimed\n"
    )
    claim("one", np.float32(2), "seconds", above=1, below=3)
    assert capsys.readouterr().out == "seconds: 2; it is above 1 and below 3, as claimed\n"
    assert list(claims.held()) == ["named", "one"]
    assert claims.held()["named"] == {
        "values": [0.91, 0.97], "says": "test accuracy", "bounds": "each is above 0.9",
        "above": 0.9, "below": None,
    }  # fmt: skip
    claims.forget()
    assert claims.held() == {}


def test_each_value_has_to_lie_within_the_bounds_or_their_mean(claim):
    claim("mean", [0.5, 1.5], "ratio", above=0.9, below=1.1, of="mean")
    with pytest.raises(AssertionError, match=r"ratio: 1 \(0.5 to 1.5, 2 values\), but each has"):
        claim("each", [0.5, 1.5], "ratio", above=0.9)
    with pytest.raises(AssertionError, match="below 1"):
        claim("level", 1.0, "a bound is not reached", below=1)
    assert list(claims.held()) == ["mean"], "what does not hold is not kept"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"name": "not a name"}, "name must be letters"),
        ({"above": None}, "needs above, below or both"),
        ({"values": []}, "values must be finite numbers, one or more"),
        ({"values": [1, np.nan]}, "values must be finite numbers"),
        ({"of": "all"}, "of must be 'each' or 'mean'; received 'all'"),
    ],
)
def test_a_claim_that_says_nothing_is_refused(claim, given, message):
    good = {"name": "it", "values": [1.0], "says": "it", "above": 0}
    with pytest.raises(ValueError, match=message):
        claim(**{**good, **given})
    claim(**good)
    with pytest.raises(ValueError, match="'it' was claimed before"):
        claim(**good)


@pytest.mark.parametrize(
    "written, shown",
    [
        ("90 %", "94 %"),
        ("90.5 %", "94.0 %"),
        ("0.91", "0.94"),
        ("90 to 95 %", "91 to 97 %"),
        ("9 points", "94 points"),
        ("1,000 times", "1 times"),
    ],
)
def test_the_measured_number_is_written_as_the_script_writes_it(written, shown):
    assert claimed.measured(written, CLAIM) == shown


def test_thousands_keep_their_comma_and_numbers_their_sign():
    assert claimed.measured("1,000", {"values": [23456.7]}) == "23,457"
    assert claimed.measured("-0.5", {"values": [-0.26]}) == "-0.3"
    assert claimed.measured("0.2 points", {"values": [-0.0002]}) == "0.0 points", "and not -0.0"


def test_what_is_written_has_to_lie_within_the_bounds_to_the_digits_written():
    assert claimed.outside_of_bounds("94 %", CLAIM) == ""
    assert claimed.outside_of_bounds("90 %", CLAIM) == "", "0.904 is written so"
    assert claimed.outside_of_bounds("89 %", CLAIM) == "each is above 0.9"
    assert claimed.outside_of_bounds("0.5", {**CLAIM, "above": None, "below": 0.4})


CODE = """
.. code-block:: Python

    {}
"""
PAGE = """
Of cats
=======

Cats are {lead}.

.. symptom:: no luck
   :cause: a cat
   :check: look at a cat
   :likelihood: often
   :question: 2

Check
-----
Look. See `#7 <https://example.org/7>`_.
{imports}
Fix
---
Feed it.

Wrong
^^^^^
{wrong}
Right
^^^^^
{right}
Why
---
{why}

Proof
-----
Here.
"""
OTHER = """
Of dogs
=======

Dogs.

.. symptom:: no luck
   :cause: a dog
   :check: look at a dog
   :likelihood: seldom
   :question: 3
"""
HOME = """
Home
====

.. toctree::
   :glob:

   gallery/*/*
   symptoms
"""
FINDER = """
Finder
======

No luck
-------

.. causes:: no luck
"""


class Pages:
    """A small site of gallery pages."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.told = folder, ""
        self.feet = folder / "feet"
        self.feet.mkdir()
        monkeypatch.setattr(claimed, "FOLDER", self.feet)
        titles = {"https://example.org/7": "My `cat`"}
        monkeypatch.setattr(see_also, "thread_titles", lambda: titles)
        monkeypatch.delenv("BNREF_EXECUTE", raising=False)
        for name, text in (("index", HOME), ("symptoms", FINDER)):
            (folder / f"{name}.rst").write_text(text)
        self.write("pitfalls/plot_dog", OTHER)
        for name in ("", "_and_two", "_and_three"):
            self.write(f"questions/plot_two_towers{name}", f"T{name}\n{'=' * 20}\n\nText.\n")

    def write(self, name, text):
        path = self.folder / "gallery" / f"{name}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def build(self, *, lead="4", claims=None, why="Because.", **code):
        parts = {name: CODE.format("\n    ".join(lines)) for name, lines in code.items()}
        given = {"imports": "", "wrong": CODE.format("a = 1"), "right": CODE.format("a = 2")}
        self.write("pitfalls/plot_cat", PAGE.format(lead=lead, why=why, **{**given, **parts}))
        if claims is not None:
            (self.feet / "plot_cat.json").write_text(json.dumps({"claims": claims}))
        extensions = ["finder", "sphinx_design", "claimed", "fixes", "ran_in_pytorch"]
        extensions += ["answer_first", "see_also"]
        told = io.StringIO()
        app = Sphinx(
            self.folder, None, self.folder / "out", self.folder / "trees", "html",
            confoverrides={"extensions": extensions, "html_theme": "basic"},
            status=None, warning=told, freshenv=True,
        )  # fmt: skip
        app.build()
        lines = told.getvalue().splitlines()
        self.told = "\n".join(line for line in lines if "already registered" not in line)
        return self

    def page(self, name="pitfalls/plot_cat"):
        path = self.folder / "out" / "gallery" / f"{name}.html"
        return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@pytest.fixture
def pages(tmp_path, monkeypatch):
    return Pages(tmp_path, monkeypatch)


def test_a_page_shows_what_it_measured_and_what_is_behind_it(pages):
    page = pages.build(lead=":claim:`90 % <named>` fine", claims={"named": CLAIM}).page()
    assert pages.told == ""
    number = page.find("strong", class_="claim")
    assert number.get_text() == "94 %" and number["tabindex"] == "0"
    assert number["data-told"] == (
        "test accuracy, 3 values from 0.91 to 0.97. The build fails unless each is above 0.9."
    )
    written = json.loads((pages.folder / "out" / "claims.json").read_text())
    assert written == {"gallery/pitfalls/plot_cat": {"named": CLAIM}}


def test_a_page_that_was_not_run_shows_what_is_written(pages):
    page = pages.build(lead=":claim:`90 % <named>` fine").page()
    assert pages.told == "" and page.find("strong", class_="claim").get_text() == "90 %"


@pytest.mark.parametrize(
    "lead, message",
    [
        ("**9 of 10**", "bold, and no claim: '9 of 10'"),
        (":claim:`80 % <named>`", "written '80 %', but named is each is above 0.9"),
        (":claim:`94 % <other>`", "no proof claims 'other'"),
        (":claim:`94 %`", "claim needs one or two numbers and <name>"),
        (":claim:`many <named>`", "claim needs one or two numbers and <name>"),
    ],
)
def test_a_number_that_nothing_holds_is_a_warning(pages, lead, message):
    pages.build(lead=lead, claims={"named": CLAIM})
    assert message in pages.told


def test_wrong_and_right_stand_beside_each_other_and_are_no_sections(pages):
    page = pages.build().page()
    sides = page.find(class_="fix-pair").find_all(class_="fix-side")
    assert [side.get_text(" ", strip=True) for side in sides] == ["Wrong a = 1", "Right a = 2"]
    assert [title.get_text()[:-1] for title in page.find_all("h2")] == [
        "Check",
        "Fix",
        "Why",
        "Proof",
    ]
    assert pages.told == ""


def test_long_lines_stand_below_each_other(pages):
    assert "fix-below" not in pages.build(right=["a" * 48]).page().find(class_="fix-pair")["class"]
    assert "fix-below" in pages.build(right=["a" * 49]).page().find(class_="fix-pair")["class"]


def test_other_libraries_are_tabs_of_their_own(pages):
    more = "Wrong, tf_keras\n^^^^^^^^^^^^^^^\n.\n\nRight, tf_keras\n^^^^^^^^^^^^^^^\n.\n"
    pages.write("pitfalls/plot_cow", PAGE.format(
        lead="4", imports="", why="", wrong=CODE.format("a"), right=CODE.format("b") + "\n" + more,
    ))  # fmt: skip
    labels = pages.build().page("pitfalls/plot_cow").find_all(class_="sd-tab-label")
    assert [label.get_text(strip=True) for label in labels] == ["Keras 3", "tf_keras"]


PYTORCH = """
Wrong, PyTorch
^^^^^^^^^^^^^^
.. code-block:: python

    a()

Right, PyTorch
^^^^^^^^^^^^^^
Words.

.. code-block:: python

    b()

"""


def page_with_pytorch(pages, monkeypatch, run):
    """A page with code for PyTorch, where this code was run: by side, with values of two seeds."""
    monkeypatch.setattr(ran_in_pytorch, "RECORD", pages.folder / "pytorch.csv")
    columns = ("page", "side", "what", "unit", "seed", "value", "digest")
    record = records.Record(
        ran_in_pytorch.RECORD, key=("page",), columns=columns,
        provenance={"torch": "2.13.0+cpu", "date": "2026-11-27T01:02:03Z"},
    )  # fmt: skip
    rows = [
        (
            f"pitfalls/plot_{name}",
            side,
            "test accuracy",
            " %",
            seed,
            value,
            pytorch_tabs.digest(code),
        )
        for name in ("cow", "horse")
        for side, (code, values) in run.items()
        for seed, value in enumerate(values)
    ]
    for name in ("cow", "horse"):
        of_page = [dict(zip(columns, row, strict=True)) for row in rows if name in row[0]]
        record.add(of_page)
    code = {"wrong": CODE.format("a"), "right": CODE.format("b") + PYTORCH}
    pages.write("pitfalls/plot_cow", PAGE.format(lead="4", imports="", why="", **code))
    return pages.build().page("pitfalls/plot_cow")


def test_below_code_for_pytorch_stands_what_it_did_when_it_was_run(pages, monkeypatch):
    run = {"Wrong": ("a()", [12.3, 17.6]), "Right": ("b()", [96.9, 97.1])}
    page = page_with_pytorch(pages, monkeypatch, run)
    assert pages.told == ""
    content = page.find_all(class_="sd-tab-content")
    assert not content[0].find(class_="fix-ran"), "not below that for Keras"
    pair, line = content[1].find_all(recursive=False)
    assert "fix-pair" in pair["class"] and "Words." in pair.get_text()
    assert line.get_text() == (
        "Run with PyTorch 2.13.0 on 2026-11-27, 2 seeds. Test accuracy: 15 % (12 to 18) with "
        "Wrong, 97 % with Right."
    )


@pytest.mark.parametrize("side, code", [("Wrong", "a( )"), ("Right", "b(1)")])
def test_code_for_pytorch_that_was_not_run_is_a_warning(pages, monkeypatch, side, code):
    run = {"Wrong": ("a()", [12]), "Right": ("b()", [97])}
    page = page_with_pytorch(pages, monkeypatch, run | {side: (code, [50])})
    assert "the code for PyTorch is not what was run" in pages.told
    assert not page.find(class_="fix-ran")


def test_code_for_pytorch_that_is_not_on_record_is_a_warning(pages, monkeypatch):
    page_with_pytorch(pages, monkeypatch, {"Wrong": ("a()", [1])})
    assert "the code for PyTorch is not what was run" in pages.told


def test_a_fix_is_short_and_has_two_sides(pages):
    pages.build(wrong=[f"a{i} = {i}" for i in range(10)])
    assert pages.told == ""
    pages.build(wrong=[f"a{i} = {i}" for i in range(11)])
    assert f"Wrong has 11 lines of code, more than {fixes.LINES}" in pages.told
    pages.write("pitfalls/plot_cow", "Cow\n===\n\nMoo.\n\nFix\n---\nText.\n")
    pages.build()
    assert "a section Fix without Wrong and Right" in pages.told


def test_the_check_says_what_to_look_at_and_imports_are_folded(pages):
    lines = ["import keras", "from bnref import doctor", "backend = keras.backend"]
    page = pages.build(imports=lines).page()
    assert answer_first.draws("fig, axes = plt.subplot_mosaic(1)") and not answer_first.draws(
        "x = 1"
    )
    assert page.find(class_="page-seen").get_text() == "You see: no luck"
    check = page.find(id="check")
    assert "look at a cat" in check.find("ul").get_text() and not page.find(class_="symptom")
    assert check.find("summary").get_text() == "The imports of this page"


def test_the_network_that_is_examined_is_folded_and_its_report_is_not(pages):
    lines = ["x = load()", "", "", "def network(units):", "    return units"]
    check = pages.build(imports=lines).page().find(id="check")
    assert check.find("details").find("summary").get_text() == "The network that is examined"
    assert "def network" in check.find("details").get_text()
    check = pages.build(imports=["print(examine(network()))"]).page().find(id="check")
    assert not check.find("details") and "print" in check.find("pre").get_text()


def test_a_page_without_a_symptom_says_nothing_of_what_is_seen(pages):
    text = "Cow\n===\n\nMoo.\n\nCheck\n-----\nLook.\n\nWhy\n---\nBecause.\n"
    pages.write("pitfalls/plot_cow", text)
    page = pages.build().page("pitfalls/plot_cow")
    assert not page.find(class_="page-seen") and "Look." in page.find(id="check").get_text()


def test_a_command_that_is_no_python_is_shown_as_it_stands(pages):
    page = pages.build(imports=["srun -N 2 python train.py 0 run"]).page()
    assert "srun -N 2" in page.find(id="check").find("pre").get_text()
    assert not page.find(id="check").find("summary")


def test_what_shares_a_symptom_is_related_and_a_thread_has_its_title(pages):
    page = pages.build().page()
    assert page.find(class_="see-also").get_text().strip() == "Related: Of dogs"
    assert page.find(class_="see-also").a["href"] == "plot_dog.html"
    said = page.find(id="check")
    assert "#7 (“My cat”)" in said.get_text() and said.find("code", string="cat")


def test_pages_on_a_post_lead_to_those_before_and_after(pages):
    page = pages.build().page("questions/plot_two_towers_and_three")
    lines = [each.get_text() for each in page.find(class_="see-also").find_all("p")]
    assert lines == ["Before this in the series: T", "After this in the series: T_and_two"]
    first = pages.page("questions/plot_two_towers").find(class_="see-also")
    assert first.get_text().strip() == "After this in the series: T_and_three"


def test_the_skeleton_of_a_page_runs_and_follows_the_order(tmp_path, monkeypatch, capsys):
    (tmp_path / "gallery" / "pitfalls").mkdir(parents=True)
    (tmp_path / "gallery" / "pitfalls" / "GALLERY_HEADER.rst").touch()
    monkeypatch.setattr(new_page, "ROOT", tmp_path)
    new_page.main("pitfalls/the_mean_is_late")
    path = tmp_path / "gallery" / "pitfalls" / "plot_the_mean_is_late.py"
    assert HEADINGS.findall(path.read_text()) == ORDER
    monkeypatch.setattr(claims, "_held", {})
    monkeypatch.setattr(plt, "show", lambda: None)
    runpy.run_path(str(path))
    plt.close("all")
    assert list(claims.held()) == ["wrong", "right"]
    for name, message in (
        ("pitfalls/plot_the_mean_is_late", "is there already"),
        ("the_mean_is_late", "NAME must be a section and a finding"),
        ("pitfall/it", "the section one of pitfalls"),
        ("pitfalls/Not a name", "received 'pitfalls/Not a name'"),
    ):
        with pytest.raises(SystemExit, match=message):
            new_page.main(name)
    assert len(list(tmp_path.rglob("*.py"))) == 1


@pytest.mark.parametrize("script", TO_THE_CONTRACT, ids=lambda path: path.stem)
def test_a_page_has_its_headings_in_the_order_of_all_pages(script):
    assert HEADINGS.findall(script.read_text("utf-8")) == ORDER


ARTICLE = """<html><article class="bd-article"><h1>It<a class="headerlink">#</a></h1>
<p>See <a href="../variants/plot_b.html#x">B</a> and <a href="https://example.org">C</a>.</p>
<img src="../../_images/sphx_glr_plot_it_001.png" alt="A"/>
<p class="page-made">Made in 3 s.</p>
<div class="highlight-python notranslate"><pre>print(doctor)</pre></div>
<div class="proof"><details><summary>Imports</summary>
<div class="highlight-Python notranslate"><pre>a = <a href="#">1</a>
b = "<b>"</pre></div></details></div>
<p>More.</p>
<div class="highlight-Python notranslate"><pre>print(a)
plt.show()</pre></div>
<p class="sphx-glr-script-out">Out:</p>
<div class="sphx-glr-script-out highlight-none"><pre>1
</pre></div>
</article></html>""".replace('"<b>"', '"&lt;b&gt;"')


def test_a_notebook_has_the_pages_text_code_and_outputs(monkeypatch):
    monkeypatch.setenv("BNREF_SITE", "https://example.org/site")
    monkeypatch.setenv("BNREF_INSTALL", "bnref[gallery]==1.0")
    made = notebooks.notebook(ARTICLE, "gallery/pitfalls/plot_it.html", [b"a picture"])
    install, text, first, more, second = nbformat.reads(made, as_version=4)["cells"]
    assert install["source"].endswith('# %pip install "bnref[gallery]==1.0"')
    assert text["source"].startswith("# It\n\nSee [B](https://example.org/site/gallery/variants/")
    assert "plot_b.html#x" in text["source"] and "[C](https://example.org)" in text["source"]
    assert "print(doctor)" in text["source"] and "Made in" not in text["source"]
    assert first["source"] == 'a = 1\nb = "<b>"' and first["outputs"] == []
    assert more["source"] == "More."
    assert second["source"] == "print(a)\nplt.show()"
    printed, picture = second["outputs"]
    assert printed["text"] == "1\n" and "image/png" in picture["data"]
    assert made == notebooks.notebook(ARTICLE, "gallery/pitfalls/plot_it.html", [b"a picture"])


def test_where_nobody_says_where_the_site_is_links_within_it_are_text(monkeypatch):
    for name in ("BNREF_SITE", "BNREF_INSTALL", "BNREF_REPOSITORY", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    made = nbformat.reads(notebooks.notebook(ARTICLE, "gallery/a/b.html", [b""]), as_version=4)
    assert "See B and [C](https://example.org)." in made["cells"][1]["source"]
    assert made["cells"][0]["source"].endswith('# %pip install ".[gallery]"')


def test_a_figure_is_told_with_its_numbers():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([1, 2, 3], [0.5, 0.25, 0.75], label="named")
    left.plot([1, 2, 3], [np.nan, 2, 2], label="level")
    left.axhline(0.3, color="k")  # not in the legend, so not told
    left.set(title="Test $x$ accuracy", xlabel="epoch", ylabel="share")
    right.bar(["one", "two"], [3, 4.5])
    right.set_title("Seconds", loc="left")
    assert alternative_texts.describe(figure) == (
        "Test x accuracy (share over epoch): named from 0.5 to 0.75, between 0.25 and 0.75; "
        "level 2. Seconds: one 3; two 4.5."
    )


def test_bars_are_told_whatever_ticks_lie_outside_of_what_is_drawn():
    figure = Figure()
    ax = figure.subplots()
    ax.barh([0, 1], [3, 4.5], 0.36)
    ax.set(yticks=[-1, 0, 1, 5], yticklabels=["out", "one", "two", "out"], ylim=(1.6, -0.6))
    assert alternative_texts.describe(figure) == "one 3; two 4.5."
    ax.barh([0.2, 1.2], [1, 1])
    ax.set(xlim=(0, 10))
    assert alternative_texts.describe(figure) == "one 3; two 4.5; one 1; two 1."


def test_the_card_of_a_page_is_one_panel_with_letters_that_can_be_read(tmp_path):
    figure = Figure(figsize=(6, 6), layout="constrained")
    panels = figure.subplot_mosaic("ab;cc")
    for name, panel in panels.items():
        panel.plot([0, 1], [0, 1])
        panel.set_title(f"Panel {name} " + 5 * "of many words ", loc="left")
    figure.legend(["x"], loc="outside lower center")
    alternative_texts.draw_card(figure, tmp_path / "cards" / "plot_it.png")
    with Image.open(tmp_path / "cards" / "plot_it.png") as card:
        assert card.size == (400, 280)
    assert figure.axes == [panels["c"]] and not figure.legends, "the largest alone"
    title = alternative_texts.title_of(panels["c"])
    assert title.startswith("Panel c of") and max(map(len, title.splitlines())) <= 34
    width = panels["c"].get_position().width
    assert width > 0.7, "it has the room of the others"


def test_long_names_of_categories_leave_room_on_a_card(tmp_path, recwarn):
    figure = Figure(layout="constrained")
    panel = figure.subplots()
    panel.plot([0.2, 0.4], ["a name that is longer than the card itself is wide"] * 2, "o")
    figure.canvas.draw()
    alternative_texts.draw_card(figure, tmp_path / "plot_it.png")
    assert [each.get_text() for each in panel.get_yticklabels()] == ["a name that i…"]
    assert panel.get_position().width > 0.4 and not recwarn.list


def test_powers_of_ten_stay_whole_on_a_card(tmp_path):
    figure = Figure(layout="constrained")
    panel = figure.subplots()
    panel.loglog([1, 1000], [1, 1000])
    figure.canvas.draw()
    alternative_texts.draw_card(figure, tmp_path / "plot_it.png")
    assert "…" not in "".join(each.get_text() for each in panel.get_xticklabels())


def test_dots_of_categories_are_told_by_category_and_what_is_long_is_cut():
    figure = Figure()
    ax = figure.subplots()
    ax.plot([0.2, 0.4], ["wrong"] * 2, "o")
    assert alternative_texts.describe(figure) == "wrong between 0.2 and 0.4."
    ax.set_title("word " * 400)
    told = alternative_texts.describe(figure)
    assert told.endswith("word …") and len(told) <= alternative_texts.LONGEST + 2
    for number in range(20):
        ax.plot([0, 1], [number, number], label=f"line {number}")
    ax.set_title("")
    assert "line 7 7; and 12 more" in alternative_texts.describe(figure)


def test_a_figure_with_pictures_keeps_its_colours_and_quotes_cannot_leave_the_text(monkeypatch):
    figure = plt.figure()
    ax = figure.subplots()
    ax.imshow(np.eye(3))
    ax.set_axis_off()  # it has no numbers, so that it needs no label
    figure.suptitle('a "cat"')
    rst = ".. image-sg:: /a.png\n   :alt: its title\n   :class: sphx-glr-single-img\n"
    monkeypatch.setattr("sphinx_gallery.scrapers.matplotlib_scraper", lambda *_, **__: rst)
    found = alternative_texts.scraper(None, None, None)
    plt.close(figure)
    assert ":alt: a &quot;cat&quot;. 1 picture.\n" in found
    assert ":class: sphx-glr-single-img keeps-colours\n" in found


CARD = """<div class="sphx-glr-thumbcontainer"><img alt="" src="x.png"/>
<p><a href="{0}.html"><span>T</span></a></p></div>"""


def cards_of(monkeypatch, tmp_path, entries):
    """The page of a section whose pages say these symptoms."""
    for name in entries:
        (tmp_path / "gallery" / "pitfalls").mkdir(parents=True, exist_ok=True)
        script = "import tf_keras\n" if name == "plot_b" else "x = 1\n"
        (tmp_path / "gallery" / "pitfalls" / f"{name}.py").write_text(script)
    monkeypatch.setattr(gallery_cards, "ROOT", tmp_path)
    found = {f"gallery/pitfalls/{name}": said for name, said in entries.items()}
    domain = SimpleNamespace(data={"entries": found})
    app = SimpleNamespace(env=SimpleNamespace(get_domain=lambda _: domain))
    all_cards = "".join(map(CARD.format, entries))
    context = {"body": f'<h1>P</h1><div class="sphx-glr-thumbnails">{all_cards}</div>'}
    gallery_cards.arrange(app, "gallery/pitfalls/index", "page.html", context, None)
    return BeautifulSoup(context["body"], "html.parser")


def said(question, name="no luck", doctor=None):
    return {"name": name, "doctor": doctor, "question": question}


def test_the_cards_of_a_section_are_grouped_by_question_and_say_what_filters_ask(
    monkeypatch, tmp_path
):
    page = cards_of(
        monkeypatch, tmp_path,
        {"plot_a": [said("3")], "plot_b": [said(None, "worse", "padding_counted")],
         "plot_c": [], "plot_d": [said("none")]},
    )  # fmt: skip
    titles = [title.get_text() for title in page.find_all("h2")]
    assert titles == ["Whose statistics?", "Used when?", "None of the three", "More"]
    groups = [
        [card.a["href"] for card in group.select(".sphx-glr-thumbcontainer")]
        for group in page.select(".sphx-glr-thumbnails")
    ]
    assert groups == [["plot_b.html"], ["plot_a.html"], ["plot_d.html"], ["plot_c.html"]]
    second = page.select_one('[data-library="tf_keras"]')
    assert second.a["href"] == "plot_b.html" and second["data-symptom"] == "worse"
    assert page.select_one(".card-filters").find_next("h2").get_text() == "Whose statistics?"


def test_cards_of_one_question_stay_together(monkeypatch, tmp_path):
    page = cards_of(monkeypatch, tmp_path, {"plot_a": [said("3")], "plot_b": [said("3")]})
    assert not page.find_all("h2") and len(page.select(".sphx-glr-thumbnails")) == 1
    assert len(page.select("[data-question='Used when?']")) == 2


def test_what_needs_an_address_is_left_out_where_nobody_gives_one(monkeypatch):
    for name in ("BNREF_SITE", "BNREF_REPOSITORY", "BNREF_INSTALL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    told = '<meta property="og:title" content="T" />\n'
    address = '<meta property="og:url" content="a.html" />\n'
    context = {"metatags": told + address + '<meta property="og:image:alt" content="A" />\n'}
    told_to_others.leave_out(None, "a", "page.html", context, None)
    assert context["metatags"] == told
    monkeypatch.setenv("GITHUB_REPOSITORY", "Owner/name")
    context = {"metatags": told + address}
    told_to_others.leave_out(None, "a", "page.html", context, None)
    assert context["metatags"] == told + address
    assert addresses.site() == "https://owner.github.io/name/"
    assert addresses.requirement() == "bnref[gallery] @ git+https://github.com/Owner/name"


def test_a_name_of_the_reference_leads_to_its_lines(monkeypatch):
    info = {"module": "bnref.layers", "fullname": "GhostBatchNorm"}
    monkeypatch.setenv("BNREF_REPOSITORY", "https://example.org/b")
    address = api_reference.linkcode_resolve("py", info)
    place, _, lines = address.partition("#L")
    assert place == "https://example.org/b/blob/main/bnref/layers/ghost_batch_norm.py"
    first = int(lines.partition("-")[0])
    source = (ROOT / "bnref" / "layers" / "ghost_batch_norm.py").read_text().splitlines()
    assert source[first - 1].startswith(("class GhostBatchNorm", "@"))
    constant = {"module": "bnref.conventions", "fullname": "CONVENTIONS"}
    assert api_reference.linkcode_resolve("py", constant) is None
    monkeypatch.delenv("BNREF_REPOSITORY")
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert api_reference.linkcode_resolve("py", info) is None
