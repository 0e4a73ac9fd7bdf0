"""Which version has which defect: the record, the rules, the table and what the reports say."""

import io
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from packaging.version import Version
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[1]

import run_upstream_versions as sweep  # noqa: E402  (they lie in folders of their own)
import tables  # noqa: E402
import versions as extension  # noqa: E402

from bnref_gallery import upstream_reports as reports  # noqa: E402
from bnref_gallery import upstream_rules as rules  # noqa: E402

REPORTS = reports.paths()
each_report = pytest.mark.parametrize("name", REPORTS)


@pytest.fixture(scope="module")
def recorded():
    """The rows of the record."""
    return tables.recorded(extension.RECORD, "result", extension.RESULTS)[1]


# The record.


def test_every_report_is_tried_with_every_version_and_nothing_else(recorded):
    found = [tuple(row[key] for key in sweep.KEY) for row in recorded]
    assert found == [tuple(run.values()) for run in sweep.runs()]
    assert {name for _, _, name in found} == set(REPORTS)


@each_report
def test_the_row_of_the_installed_version_is_what_the_report_prints(name, recorded):
    package = reports.packages(name)[0]
    rows = [r for r in recorded if (r["package"], r["report"]) == (package, name)]
    (row,) = [r for r in rows if r["version"] == version(package)]
    lines = reports.block(name, "text").splitlines()
    assert row["printed"] == " | ".join(line.strip() for line in lines)
    assert (row["result"], row["words"]) == rules.judged(name, reports.block(name, "text"))


def test_the_record_is_judged_by_the_rules_as_they_stand(recorded):
    for row in recorded:
        if row["result"] != rules.FAILS:
            output = row["printed"].replace(" | ", "\n") + "\n"
            assert (row["result"], row["words"]) == rules.judged(row["report"], output), row


def test_one_release_of_each_minor_version_is_tried_in_their_order():
    for package in ("keras", "tf_keras"):
        tried = [Version(each) for each in sweep.VERSIONS[package]]
        minors = [each.release[:2] for each in tried]
        assert minors == [(minors[0][0], minors[0][1] + k) for k in range(len(minors))]
        assert sweep.VERSIONS[package][-1] == version(package)


# The rules, on what no version has printed.


def test_each_report_has_a_rule_that_finds_its_defect_in_what_it_prints():
    assert set(rules.RULES) == set(REPORTS)
    for name in REPORTS:
        assert rules.judged(name, reports.block(name, "text"))[0] == rules.SHOWS


@pytest.mark.parametrize(
    "name, changes, result, words",
    [
        ("empty_replica_nan", {"[nan, nan]": "[1.0, nan]"}, "shows it", "γ of 1 replica"),
        ("empty_replica_nan", {"[nan, nan]": "[1.0, 1.0]"}, "shows it", "moving mean alone"),
        ("empty_replica_nan", {"[nan, nan]": "[1, 1]", "nan": "5.0"}, "does not", ""),
        ("empty_replica_nan", {"[nan, nan]": "[1, 1]", "nan": "7.0"}, "prints something else", ""),
        ("exported_in_training_mode", {"Resizing: predict 1.00, served 0.00":
                                       "Resizing: predict 1.00, served 1.00"},
         "shows it", "behind RandomFlip"),
        ("exported_in_training_mode", {"served 0.00": "served 1.00"}, "does not", ""),
        ("exported_in_training_mode", {"Rescaling: predict 1.00, served 1.00":
                                       "Rescaling: predict 1.00, served 0.00"},
         "prints something else", ""),
        ("exported_in_training_mode", {"served 0.00": "served 0.50"}, "prints something else", ""),
        ("first_replica_saved", {"mean that is saved: 1.0": "mean that is saved: 1.0001"},
         "shows it", ""),
        ("first_replica_saved", {"mean that is saved: 1.0": "mean that is saved: 6.0"},
         "does not", ""),
        ("first_replica_saved", {"mean that is saved: 1.0": "mean that is saved: 11.0"},
         "prints something else", ""),
        ("fit_on_workers", {"Attempt to convert a value (PerReplica:{":
                            "Invalid reduction dimension 0 for input with 0 dimensions. for"},
         "shows it", "second reduction"),
        ("fit_on_workers", {"ValueError: Attempt to convert a value (PerReplica:{": "fit works"},
         "does not", ""),
        ("fit_on_workers", {"Attempt to": "No"}, "prints something else", ""),
        ("mask_unsynchronizes", {"[0.0, 0.0]": "[-1.0, 1.001]"}, "does not", ""),
        ("mask_unsynchronizes", {"[0.0, 10.0]": "[5.0, 5.0]"}, "shows it", "outputs alone"),
        ("mask_unsynchronizes", {"[0.0, 0.0]": "[-1.0, 0.0]"}, "prints something else", ""),
        ("mask_unsynchronizes", {"[-1.0, 1.0]": "[0.0, 0.0]"}, "prints something else", ""),
        ("second_derivative", {"-1.637, 1.357, -1.144, -1.781": "-0.835, 2.158, -0.343, -0.981"},
         "does not", "tf.nn.moments alone"),
        ("second_derivative", {"0.5, 0.0, 0.0, 0.0": "0.375, -0.125, -0.125, -0.125"},
         "shows it", "layer alone"),
        ("second_derivative", {"BatchNormalization": ""}, "shows it", ""),
        ("training_leaks", {"Resizing: 0.010": "Resizing: 0.000"}, "shows it", "behind RandomFlip"),
        ("training_leaks", {"0.010": "0.000"}, "does not", ""),
        ("training_leaks", {"Rescaling: 0.000": "Rescaling: 0.010"}, "prints something else", ""),
        ("training_leaks", {"Resizing: 0.010": "Resizing: 0.300"}, "prints something else", ""),
        ("training_overridden", {"0.01": "0.0"}, "does not", ""),
        ("training_overridden", {"0.01": "nan"}, "prints something else", ""),
        ("variance_cancels", {"variance: 0.0": "variance: 1.0"}, "does not", ""),
        ("variance_cancels", {"variance: 0.0": "variance: nan"}, "shows it", ""),
        ("variance_cancels", {"variance: 1.0": "variance: 0.0"}, "prints something else", ""),
        ("variance_cancels_in_xla", {"True      True": "True      False"}, "does not", ""),
        ("variance_cancels_in_xla", {"False     False": "False     True"},
         "prints something else", ""),
    ],
)  # fmt: skip
def test_a_rule_goes_by_the_numbers(name, changes, result, words):
    output = reports.block(name, "text")
    for old, new in changes.items():
        assert old in output
        output = output.replace(old, new)
    assert rules.judged(name, output) == (result, words)


@each_report
def test_nothing_printed_is_something_else(name):
    assert rules.judged(name, "") == (rules.ELSE, "")


# The sweep.


@pytest.fixture
def tried(tmp_path, monkeypatch):
    """Return the row for an invented package that is installed already, with any program."""
    folder = tmp_path / "keras-9.9.9"
    (folder / "keras").mkdir(parents=True)
    (folder / "keras" / "__init__.py").write_text("__version__ = '9.9.9'\n")
    (folder / "keras-9.9.9.dist-info").mkdir()
    (folder / "keras-9.9.9.dist-info" / "METADATA").write_text("Name: keras\nVersion: 9.9.9\n")
    monkeypatch.setattr(sweep, "FOLDER", tmp_path)

    def row(program):
        monkeypatch.setattr(sweep.reports, "block", lambda name, language: program)
        return sweep.row("keras", "9.9.9", "training_overridden")

    return row


def test_a_program_runs_with_the_version_that_is_asked_for(tried):
    row = tried("import keras\nprint('moving mean after fit:', 0.01)\nprint(keras.__version__)")
    assert row == {
        "package": "keras", "version": "9.9.9", "report": "training_overridden",
        "result": "shows it", "words": "", "printed": "moving mean after fit: 0.01 | 9.9.9",
    }  # fmt: skip


def test_a_program_that_fails_is_told_with_the_first_line_of_its_error(tried):
    row = tried("try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('no\\nnever')")
    assert (row["result"], row["printed"]) == ("does not run", "ValueError: no")


def test_a_program_that_does_not_end_is_told(tried, monkeypatch, processes):
    monkeypatch.setattr(sweep, "LIMIT", 0.5)
    row = tried("import signal\nsignal.pause()")
    assert (row["result"], row["printed"]) == ("does not run", "no end after 0.5 s")
    assert processes[-1].returncode is not None


def test_another_version_in_the_folder_is_refused(tried, tmp_path):
    told = tmp_path / "keras-9.9.9" / "keras-9.9.9.dist-info" / "METADATA"
    told.write_text("Name: keras\nVersion: 9.9.8\n")
    with pytest.raises(RuntimeError, match="has keras 9.9.8"):
        tried("print()")


def test_what_is_not_there_is_installed_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sweep, "FOLDER", tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda words, check: asked.append(words))
    with pytest.raises(ValueError, match="not enough values"):
        sweep.installed("keras", "3.4.1")
    assert asked[0][1:4] == ["-m", "pip", "install"] and "--no-deps" in asked[0]
    assert asked[0][-3:] == ["--target", str(tmp_path / "keras-3.4.1"), "keras==3.4.1"]


# What is said of it.


def invented(*results, package="keras", words=""):
    """Rows of one report for the versions 1.0, 1.1 and so on, by the first letters of a result."""
    names = {"s": "shows it", "d": "does not", "e": "prints something else", "f": "does not run"}
    return [
        {"package": package, "version": f"1.{minor}", "report": "a_b", "result": names[each[0]],
         "words": each[1:], "printed": "1 < 2"}
        for minor, each in enumerate(results)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rows, told",
    [
        (invented("s", "s"), "Seen: Keras since 1.0 or earlier."),
        (invented("d", "s", "s"), "Seen: Keras since 1.1. Not in: Keras 1.0."),
        (invented("s", "s", "d", "s"), "Seen: Keras since 1.3, in 1.0 to 1.1. Not in: Keras 1.2."),
        (invented("s", "d"), "Seen: Keras in 1.0. Not in: Keras 1.1."),
        (invented("sx", "sy"), "Seen: Keras since 1.1 (y), in 1.0 (x)."),
        (invented("d", "s", "d"), "Seen: Keras in 1.1. Not in: Keras 1.2, 1.0."),
        (invented("f", "e", "s"), "Seen: Keras since 1.2. Something else is printed by: Keras 1.1. "
         "The program does not run in: Keras 1.0."),
        (invented("s") + invented("d", "d", package="tf_keras"),
         "Seen: Keras since 1.0 or earlier. Not in: tf_keras 1.0 to 1.1."),
        (invented("s") + invented("s", package="tf_keras"),
         "Seen: Keras since 1.0 or earlier; tf_keras since 1.0 or earlier."),
    ],
)  # fmt: skip
def test_versions_are_told_in_a_line(rows, told):
    assert reports.since(rows) == told


@each_report
def test_each_report_says_since_which_version_and_in_which_not(name, recorded):
    text = REPORTS[name].read_text("utf-8").partition("\n---\n")[2]
    told = reports.since([row for row in recorded if row["report"] == name])
    assert re.findall(r"^Seen: .*$", text, re.M) == [told]


def test_the_table_has_the_newest_version_first_and_words_beside_the_signs():
    rows = invented("s", "d", "s <b>") + invented("e", "f", package="tf_keras")
    page = BeautifulSoup(extension.table(rows, "to/{}.html".format).astext(), "html.parser")
    region = page.find("div")
    assert region["tabindex"] == "0" and region["role"] == "region" and region["aria-label"]
    assert [each.get_text() for each in page.find_all("th", scope="row")] == [
        "Keras 1.2", "Keras 1.1", "Keras 1.0", "tf_keras 1.1", "tf_keras 1.0"
    ]  # fmt: skip
    (link,) = page.thead.find_all("a")
    assert (link.get_text(), link["href"]) == ("a b", "to/a_b.html")
    assert [each.get_text() for each in page.find_all("td")] == [
        "✗shows it:  <b>", "✓does not show it", "✗shows it", "–does not run: 1 < 2",
        "≠prints something else: 1 < 2",
    ]  # fmt: skip
    assert [each["class"] for each in page.find_all("td")][:2] == [["wrong"], ["agrees"]]
    assert all(sign["aria-hidden"] == "true" for sign in page.find_all(class_="sign"))


def test_the_page_has_the_style_by_which_the_table_scrolls_and_links_that_lead_to_reports(tmp_path):
    (tmp_path / "index.rst").write_text("Defects\n=======\n\n.. defect-versions::\n", "utf-8")
    app = Sphinx(
        tmp_path, None, tmp_path / "out", tmp_path / "trees", "html",
        confoverrides={"extensions": ["versions"], "html_theme": "basic"},
        status=None, warning=io.StringIO(), freshenv=True,
    )  # fmt: skip
    app.build()
    page = BeautifulSoup((tmp_path / "out" / "index.html").read_text("utf-8"), "html.parser")
    styles = [link["href"] for link in page.find_all("link", rel="stylesheet")]
    assert any("conformance.css" in each for each in styles)
    style = (ROOT / "docs" / "_static" / "conformance.css").read_text("utf-8")
    assert re.search(r"\.conformance-scroll {[^}]*overflow: auto", style)
    assert page.find("table", class_="versions").parent["class"] == ["conformance-scroll"]
    links = page.find("table", class_="versions").thead.find_all("a")
    names = [link["href"].removeprefix("upstream/").removesuffix(".html") for link in links]
    assert names == [name for name in REPORTS if "keras" in reports.packages(name)]
    assert "run_upstream_versions.py" in page.find("p", class_="conformance-provenance").get_text()


def test_a_report_that_a_package_was_not_tried_with_is_told_so():
    rows = invented("s") + [{**invented("d", package="tf_keras")[0], "report": "c"}]
    rows += [{**invented("d")[0], "report": "c"}]
    page = BeautifulSoup(extension.table(rows, str).astext(), "html.parser")
    assert page.find_all("tr")[-1].td.get_text() == "not tried"


def test_an_unknown_result_in_the_record_is_refused(tmp_path):
    text = extension.RECORD.read_text("utf-8")
    assert "shows it" in text
    (tmp_path / "a.csv").write_text(text.replace("shows it", "is fine", 1), "utf-8")
    with pytest.raises(ExtensionError, match="unknown result 'is fine'; .*empty_replica_nan"):
        tables.recorded(tmp_path / "a.csv", "result", extension.RESULTS)
