"""The built pages as files: titles, pictures, links, feet. `make test` builds them first."""

import ast
import copy
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import addresses
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs" / "_build" / "html"
SCRIPTS = sorted((ROOT / "gallery").glob("*/plot_*.py"))

pytestmark = pytest.mark.skipif(
    not (SITE / "index.html").exists(), reason="the site is not built: make html"
)


@pytest.fixture(scope="module")
def pages():
    """Every page, parsed, under its path."""
    found = {
        path: BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(SITE.rglob("*.html"))
        if "_static" not in path.parts
    }
    assert len(found) > 10
    return found


def test_every_page_has_a_title_and_one_main_heading(pages):
    for path, page in pages.items():
        assert page.title and page.title.get_text().strip(), path
        assert len(page.find_all("h1")) == 1, path


# What is left of markup that was not understood: an emphasis, code, a role, a directive, a link.
MARKUP = re.compile(r"\*\*|(?<![\w*×·])\*(?=\w)|`|:[a-z:]+:`|\.\. [a-z]+::|\]\(|\{[a-z:]+\}")
NO_PROSE = "dt, pre, code, script, style, math, textarea, .highlight"


def test_no_markup_is_left_in_what_is_read(pages):
    """On the pages themselves: signatures, programs and formulas have such letters by right."""
    for path, page in pages.items():
        article = copy.copy(page.find("article") or page.body)
        for other in article.select(NO_PROSE):
            other.extract()
        for text in article.find_all(string=MARKUP):
            pytest.fail(f"{path.relative_to(SITE)}: {text.strip()[:200]}")


def test_markup_is_known_when_it_is_seen():
    for each in ("a **b** c", "see *that", "`code`", ":ref:`x`", ".. note:: x", "[a](b)", "{ref}"):
        assert MARKUP.search(each), each
    for each in ("3 * 4", "2×*", "a: b", "1 ≤ x < 2", "f(x) [1]", "{1, 2}"):
        assert not MARKUP.search(each), each


def test_every_image_exists_and_says_what_it_shows(pages):
    for path, page in pages.items():
        for image in page.find_all("img"):
            assert (path.parent / unquote(image["src"])).resolve().is_file(), (path, image["src"])
            text = image.get("alt", "").strip()
            assert text and not text.endswith((".png", ".svg")), (path, image["src"], text)
            assert text.lower() not in {"plot", "thumbnail"}, (path, image["src"])


def test_no_link_inside_the_site_is_broken(pages):
    anchors = {
        path: {tag["id"] for tag in page.find_all(id=True)} | {""} for path, page in pages.items()
    }
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            # The page for lost links has addresses from the site's root.
            folder = SITE if parts.path.startswith("/") else path.parent
            root = urlsplit(addresses.site() or "/").path
            place = unquote(parts.path).removeprefix(root).lstrip("/")
            target = (folder / place).resolve() if parts.path else path
            assert target.is_file(), f"{path}: {link['href']}"
            if target in anchors and "search" not in target.name:
                assert unquote(parts.fragment) in anchors[target], f"{path}: {link['href']}"


def test_no_page_names_another_host_for_anything_it_loads(pages):
    for path, page in pages.items():
        for tag in page.find_all(["script", "img", "link", "iframe", "source", "video"]):
            for attribute in ("src", "href", "srcset"):
                address = tag.get(attribute, "")
                outside = "//" in address and tag.get("rel") != ["canonical"]
                assert not outside, f"{path}: <{tag.name} {attribute}={address}>"


def test_every_executed_page_says_what_it_ran_on(pages):
    executed = [SITE / script.relative_to(ROOT).with_suffix(".html") for script in SCRIPTS]
    executed += [SITE / "learn" / f"{name}.html" for name in ("what_it_computes", "backward_pass")]
    for path in executed:
        script = ["Run it"] if path.stem.startswith("plot_") else []
        foot = pages[path].find("dl", class_="page-foot")
        assert foot, path
        names = [term.get_text().strip(" :") for term in foot.find_all("dt")]
        assert names == ["Ran on", "Data", "Scale", "Versions", "Took", *script], path
        assert all(text.get_text().strip() for text in foot.find_all("dd")), path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_gallery_page_shows_its_answer_and_figure_first_and_no_figure_twice(pages, script):
    article = pages[SITE / script.relative_to(ROOT).with_suffix(".html")].find("article")
    kinds = [tag.name for tag in article.find_all(["img", "pre"])]
    assert kinds[0] == "img"
    sources = [tag["src"] for tag in article.find_all("img")]
    assert len(sources) == len(set(sources))
    made = article.find(class_="page-made").get_text()
    assert re.fullmatch(r"Made in \d+ s; .+; scale \w+; \d{4}-\d\d-\d\d\.", made)
    proof = article.find_all(class_="proof")[-1].get_text()
    assert "assert " in proof or "claim(" in proof


def test_every_formula_is_drawn_without_a_script(pages):
    formulas = sum(len(page.find_all("math")) for page in pages.values())
    scripts = [tag for page in pages.values() for tag in page.find_all("script")]
    assert formulas > 30
    assert not [tag for tag in scripts if "mathjax" in str(tag).lower()]
    assert not [path for path, page in pages.items() if "$$" in page.get_text()]


def claims(node):
    """Whether a node of a script asserts something."""
    called = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "claim"
    return called or isinstance(node, ast.Assert)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_gallery_script_ends_by_asserting_what_it_claims(script):
    text = script.read_text("utf-8")
    conclusion = re.split("\n# (?:Conclusion|Proof)\n", text)[-1]
    assert conclusion != text, "no cell called Proof, or Conclusion"
    assert any(map(claims, ast.walk(ast.parse(conclusion))))
    entries = r"^\.\. symptom::.*\n(?: {3}.*\n)+"
    of_pytorch = r"^# (?:Wrong|Right), PyTorch\n(?:#.*\n)+?(?=# (?:Wrong|Right|Why)\b)"
    rest = re.sub(f"{entries}|{of_pytorch}", "", text, flags=re.MULTILINE)
    written = [line for line in rest.splitlines() if line.strip()]
    assert len(written) <= 180, "not counting its symptoms, PyTorch's code and blank lines"


def test_no_figure_has_an_axis_without_a_y_label(pages):
    marked = [path.name for path, page in pages.items() if page.find(class_="lacks-y-label")]
    assert not marked, "which of its axes: figure_faults.unlabelled(figure)"


def test_no_figure_has_a_text_that_is_cut_off(pages):
    marked = [path.name for path, page in pages.items() if page.find(class_="cuts-text-off")]
    assert not marked, "which text: figure_faults.cut_off(figure)"


def test_the_reference_shows_the_arguments_of_a_layer(pages):
    signature = pages[SITE / "api" / "layers.html"].find(id="bnref.layers.BatchNorm").get_text()
    assert "momentum=0.99" in signature and "epsilon=0.001" in signature
