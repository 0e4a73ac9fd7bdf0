"""The papers that pages cite are in the list, and the list has none that nobody cites."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"\b\d{4}\.\d{5}\b")
LIST = ROOT / "docs" / "papers.toml"
PAPERS = tomllib.loads(LIST.read_text("utf-8"))["paper"]


def cited():
    """The numbers of arXiv in the sources of pages and of the package."""
    found = set()
    for folder, pattern in (("gallery", "*/*.py"), ("docs", "*.md"), ("docs", "learn/*.md"),
                            ("docs", "variants.csv"), ("bnref", "**/*.py")):  # fmt: skip
        for path in (ROOT / folder).glob(pattern):
            for line in path.read_text("utf-8").splitlines():
                if "arxiv" in line.lower() or path.suffix == ".csv":
                    found |= set(NUMBER.findall(line))
    return found


def test_every_paper_that_is_cited_is_in_the_list():
    assert cited() <= {each["number"] for each in PAPERS}


def test_the_list_has_no_paper_that_nobody_cites():
    numbers = [each["number"] for each in PAPERS]
    assert len(numbers) == len(set(numbers)), "none twice"
    assert set(numbers) <= cited()


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper["number"])
def test_each_says_who_what_and_what_it_has_shown_in_a_sentence(paper):
    assert re.search(r" (20\d\d)$", paper["who"])
    assert paper["title"] and not paper["title"].endswith(".")
    for said in (paper["shown"], paper.get("later", "Nothing.")):
        assert said.endswith(".") and len(said.split()) < 25
    assert set(NUMBER.findall(paper.get("later", ""))) <= {each["number"] for each in PAPERS}
