"""The site's small Sphinx extensions, each by what it must do or refuse."""

import inspect
import json
import logging
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes

ROOT = Path(__file__).resolve().parents[1]

import accessible  # noqa: E402  (they lie in the site's folder of extensions)
import addresses  # noqa: E402
import answer_first  # noqa: E402
import coverage  # noqa: E402
import foot  # noqa: E402
import mathml  # noqa: E402
import page_tools  # noqa: E402
import signatures  # noqa: E402
import variants  # noqa: E402
from sphinx.errors import ExtensionError  # noqa: E402

import bnref  # noqa: E402


def test_every_public_name_is_found_without_importing():
    names = coverage.public_names()
    assert names["bnref"] == bnref.__all__
    assert names["bnref.layers"] == bnref.layers.__all__
    of_datasets = {"load", "available", "Dataset", "Frames", "Speech"}
    assert set(names["bnref_gallery.datasets"]) == of_datasets


def test_the_fields_of_a_named_tuple_are_described_once():
    skipped = {
        name: signatures.skip(None, "class", name, member, False, None)
        for name, member in vars(bnref.functional.Moments).items()
    }
    assert all(skipped[name] for name in bnref.functional.Moments._fields)
    assert not skipped["pooled"]


def test_the_signature_of_a_layer_has_its_arguments_without_their_types():
    class Layer:
        def __init__(self, *, momentum: float = 0.99, **options):
            pass

    shown, _ = signatures.show(None, "class", "Layer", Layer, None, "(*args, **kwargs)", None)
    assert shown == "(*, momentum=0.99, **options)"


def test_a_public_name_without_a_description_is_reported(monkeypatch):
    public = {
        "bnref": ["Known", "Forgotten", "PassedOn", "module"],
        "bnref.layers": ["PassedOn", "Known"],
        "bnref_gallery": ["Known"],
    }
    monkeypatch.setattr(coverage, "public_names", lambda: public)
    described = {
        "bnref.Known": None,
        "bnref.Known.Forgotten": None,  # a method is no function
        "bnref.layers.PassedOn": None,
    }
    domain = SimpleNamespace(objects=described, modules={"bnref.module": None})
    told = []
    monkeypatch.setattr(coverage.logger, "warning", lambda text, *rest: told.append(text % rest))
    coverage.check(None, SimpleNamespace(get_domain=lambda name: domain))
    assert told == [
        "bnref.Forgotten is public but not in the API reference",
        "bnref_gallery.Known is public but not in the API reference",
    ]


def test_the_table_of_variants_says_what_the_hooks_say_and_marks_what_differs():
    rows = {row[0].rpartition(".")[2].rstrip("`"): row[1:] for row in variants.layer_rows()}
    assert set(rows) == set(bnref.layers.__all__)
    training, inference, question, _, file, _ = rows["CumulativeBatchNorm"]
    assert inference == "**The mean of all batches so far.**"
    assert question == "2"
    assert not training.startswith("**") and file == "``cumulative_batch_norm.py``"
    assert rows["FrozenBatchNorm"][:2] == [
        "**The population's, as it was given.**",
        "An exponential average of the batches'.",
    ]
    assert rows["DomainBatchNorm"][2] == "1, 2"
    assert not any(cell.startswith("**") for cell in rows["BatchNorm"])
    assert rows["BatchNorm"][3] == "1502.03167"


def test_the_table_of_functions_says_what_they_do():
    rows = {row[0].rpartition(".")[2].rstrip("`"): row[1:] for row in variants.function_rows()}
    assert {"recompute", "fold", "stored_moments_norm"} < set(rows)
    assert rows["recompute"][1:3] == ["2", "2105.07576"]
    assert rows["stored_moments_norm"][4].endswith("plot_two_towers`")


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Change the file about the variants, in a copy."""

    def change(old, new):
        text = variants.FILE.read_text("utf-8")
        assert old in text
        monkeypatch.setattr(variants, "FILE", tmp_path / "variants.csv")
        variants.FILE.write_text(text.replace(old, new), "utf-8")

    return change


def test_a_layer_without_a_line_and_a_line_without_a_layer_are_refused(listed):
    listed("layers.GhostBatchNorm", "layers.GhostNorm")
    with pytest.raises(ExtensionError, match=r"csv.* lacks layers\.Ghost.*, layers\.Ghost"):
        list(variants.layer_rows())


def test_a_line_without_a_function_is_refused(listed):
    listed("folding.fold", "folding.unfold")
    with pytest.raises(ExtensionError, match="has folding.unfold, which bnref has not"):
        list(variants.function_rows())


@pytest.mark.parametrize("name", bnref.layers.__all__)
def test_each_hook_asks_its_question_and_answers_it(name):
    for hook, question in variants.HOOKS.items():
        first = inspect.getdoc(getattr(getattr(bnref.layers, name), hook)).splitlines()[0]
        assert first.startswith(f"{question} ") or first.startswith(f"{question}, "), hook


def test_the_papers_and_questions_in_the_file_are_those_of_the_docstrings():
    for row in [*variants.listed(True).values(), *variants.listed(False).values()]:
        text = inspect.getdoc(pkgutil.resolve_name(f"bnref.{row['name']}"))
        papers = dict.fromkeys(re.findall(r"arXiv\s+(\d{4}\.\d{4,5})", text))
        assert row["papers"] == (", ".join(papers) or "—"), row["name"]
        if row["question"]:
            assert set(re.findall(r"[Qq]uestion (\d)", text)) == {row["question"]}, row["name"]


def test_a_formula_that_cannot_be_read_names_its_page():
    assert "<mfrac>" in mathml.to_mathml(r"\frac{a}{b}", True, "page")
    with pytest.raises(ExtensionError, match=r"learn/page: cannot read the formula '\\\\frac"):
        mathml.to_mathml(r"\frac{", True, "learn/page")


def test_a_card_is_given_the_text_of_its_title():
    card = (
        '<div class="sphx-glr-thumbcontainer" tooltip="x"><img alt="" src="a.png" />'
        '<p><a href="a.html"><span class="doc">A title</span></a></p></div>'
    )
    context = {"body": card + card.replace("A title", "Another")}
    accessible.repair(None, "index", "page.html", context, None)
    assert 'alt="A figure of: A title"' in context["body"]
    assert 'alt="A figure of: Another"' in context["body"]


def test_a_long_name_in_a_title_breaks_between_its_parts_and_nothing_else_does():
    """On a phone a title that ends a line inside of "Average" cannot be read."""
    body = "<h1>Why ExponentialMovingAverage fails<a>#</a></h1><p>ExponentialMovingAverage</p>"
    context = {"body": body}
    accessible.repair(None, "index", "page.html", context, None)
    title = "Exponential<wbr>Moving<wbr>Average"
    assert context["body"] == body.replace("ExponentialMovingAverage", title, 1)
    assert accessible.breakable("What is renorm_momentum?") == "What is renorm_momentum?"


def test_a_worker_may_grow_before_joblib_replaces_it(monkeypatch):
    from joblib.externals.loky import process_executor

    limit = "_MAX_MEMORY_LEAK_SIZE"
    assert limit in process_executor._process_worker.__code__.co_names  # read where it counts
    monkeypatch.setattr(process_executor, limit, 3e8)
    foot.keep_worker()
    assert getattr(process_executor, limit) == foot.GROWTH > 1e9


def test_the_foot_collects_the_data_that_a_page_loaded_once_each():
    watch, log = foot._Watch(), logging.getLogger("bnref_gallery.datasets")
    log.addHandler(watch)
    try:
        for _ in range(2):
            log.warning("loaded", extra={"dataset": "mnist from somewhere"})
        log.warning("nothing of a data set")
    finally:
        log.removeHandler(watch)
    assert watch.data == ["mnist from somewhere"]
    facts = {
        "devices": "2 CPUs", "data": watch.data, "scale": "quick", "python": "3.11.7",
        "versions": {"keras": "3.15.1"}, "seconds": 1.26, "processor_seconds": 0.74,
    }  # fmt: skip
    assert foot.lines(facts) == [
        ("Ran on", "2 CPUs"), ("Data", "mnist from somewhere"), ("Scale", "quick"),
        ("Versions", "Python 3.11.7, keras 3.15.1"), ("Took", "1.3 s, 0.7 s of processor time"),
    ]  # fmt: skip
    assert foot.run_it("plot_it").astext() == (
        'In a clone of bnref, pip install ".[gallery]"; then python plot_it.py'
    )
    assert ("Data", "made on the page") in foot.lines({**facts, "data": []})


def test_answer_figure_and_one_line_come_first_and_the_proof_is_folded(monkeypatch, tmp_path):
    monkeypatch.setattr(answer_first, "FOLDER", tmp_path)
    facts = {"seconds": 41.7, "devices": "2 CPUs", "scale": "quick", "date": "2026-11-27"}
    (tmp_path / "plot_it.json").write_text(json.dumps(facts))
    figures = [nodes.image(uri=name, **{"class": ["sphx-glr-single-img"]}) for name in "ab"]
    code = nodes.literal_block("", "assert 1\nassert 2, 'told'\nprint(3)")
    printed = nodes.literal_block("", "3", classes=["sphx-glr-script-out"])
    proof = nodes.section(
        "", nodes.title("", "Proof"), code, printed, nodes.paragraph("", "So it is.")
    )
    answer, symptom = nodes.paragraph("", "It is so."), nodes.paragraph("", "You see")
    experiment = nodes.section("", nodes.title("", "Experiment"), *figures)
    page = nodes.section("", nodes.title("", "It"), answer, symptom, experiment, proof)
    doctree = nodes.document(None, None)
    doctree += page

    class Env:
        docname = "gallery/pitfalls/plot_it"
        read = []

        def note_dependency(self, path):
            self.read.append(path)

    class App:
        env = Env()

    answer_first.arrange(App, doctree)
    assert [type(node).__name__ for node in page] == [
        "title", "paragraph", "image", "paragraph", "paragraph", "section", "section",
    ]  # fmt: skip
    assert page[2]["uri"] == "a" and [each["uri"] for each in doctree.findall(nodes.image)] == [
        "a",
        "b",
    ]
    assert page[3].astext() == "Made in 42 s; 2 CPUs; scale quick; 2026-11-27."
    assert Env.read == [str(tmp_path / "plot_it.json")]
    title, folded, after = proof
    opening, *inside, closing = folded
    assert "<summary>2 assertions that this build holds</summary>" in opening.astext()
    assert inside == [code, printed] and closing.astext() == "</details>"
    assert after.astext() == "So it is."


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, None),
        ({"BNREF_REPOSITORY": "https://example.org/a/b/"}, "https://example.org/a/b"),
        ({"GITHUB_REPOSITORY": "a/b"}, "https://github.com/a/b"),
        ({"GITHUB_REPOSITORY": "a/b", "BNREF_REPOSITORY": ""}, None),
        (
            {"GITHUB_REPOSITORY": "a/b", "GITHUB_SERVER_URL": "https://git.example.org"},
            "https://git.example.org/a/b",
        ),
    ],
)
def test_the_repository_is_one_setting_or_githubs_own(monkeypatch, variables, expected):
    for name in ("BNREF_REPOSITORY", "GITHUB_REPOSITORY", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert addresses.repository() == expected


@pytest.mark.parametrize(
    "pagename, source",
    [
        ("gallery/pitfalls/plot_it", "gallery/pitfalls/plot_it.py"),
        ("gallery/pitfalls/index", "gallery/pitfalls/GALLERY_HEADER.rst"),
        ("learn/backward_pass", "docs/learn/backward_pass.md"),
    ],
)
def test_the_side_of_a_page_has_its_files_its_source_and_where_to_report(
    monkeypatch, pagename, source
):
    monkeypatch.setenv("BNREF_REPOSITORY", "https://example.org/b")
    body = '<a href="../_downloads/1/plot_it.py">x</a> <a href="../_downloads/2/plot_it.ipynb">'
    context = {"body": body, "title": "It &amp; <em>that</em>", "page_source_suffix": ".md"}
    page_tools.tools(None, pagename, "page.html", context, doctree=object())
    name = pagename.rpartition("/")[2]
    assert (ROOT / "docs" / source).exists() or "plot_it" in source or (ROOT / source).exists()
    assert context["page_tools"] == [
        ("Python script", "../_downloads/1/plot_it.py"),
        ("Notebook", "../_downloads/2/plot_it.ipynb"),
        ("This page as Markdown", f"{name}.md"),
        ("Source", f"https://example.org/b/blob/main/{source}"),
        ("Report a mistake", "https://example.org/b/issues/new?title=It%20%26%20that%3A%20"),
    ]
    monkeypatch.delenv("BNREF_REPOSITORY")
    page_tools.tools(None, pagename, "page.html", context, doctree=object())
    assert len(context["page_tools"]) == 3
