"""When a page runs again: the keys, and whole builds in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

import freshness  # noqa: E402  (they lie in the site's folder of extensions)
import imports  # noqa: E402

DEFECTS = '[claws]\nseen_on = { keras = "3.15.1" }\n[bite]\nseen_on = { keras = "3.15.1" }\n'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with all that a key looks at, and some that it must not look at."""
    monkeypatch.setenv("BNREF_DEVICE", "CPU")
    monkeypatch.setenv("BNREF_SCALE", "quick")
    monkeypatch.setenv("BNREF_DATA", "")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    files = {
        "bnref/__init__.py": "from bnref import folding, training\nfrom bnref.layers import Norm\n",
        "bnref/folding.py": "",
        "bnref/layers/__init__.py": "from bnref.layers.norm import Norm\n"
        "from bnref.layers.other import Other\n",
        "bnref/layers/norm.py": "from bnref.statistics import mean\nNorm = mean\n",
        "bnref/layers/other.py": "Other = 1\n",
        "bnref/statistics.py": "mean = 1\n",
        "bnref/training/__init__.py": "from bnref.training.loop import train\n",
        "bnref/training/loop.py": "train = 1\n",
        ".ci/constraints.txt": "tensorflow==2.21.0\n",
        "gallery/bnref_gallery/__init__.py": "",
        "gallery/bnref_gallery/models.py": "def small(): pass\n",
        "gallery/bnref_gallery/timing.py": "",
        "gallery/pitfalls/plot_one.py": "import bnref\nfrom bnref import training\n"
        "from bnref_gallery import models\n\n"
        "bnref.Norm, read('sweep.csv')\n"
        'defects.defect("claws", True)\n',
        "gallery/pitfalls/plot_other.py": "from bnref import folding\n",
        "gallery/bnref_gallery/recorded/sweep.csv": "x\n1\n",
        "gallery/bnref_gallery/defects.toml": DEFECTS,
        "gallery/bnref_gallery/recorded/unread.csv": "x\n1\n",
        "docs/index.md": "# Title\n",
        "README.md": "text\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    datasets = Path("gallery", "bnref_gallery", "datasets")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / datasets, tmp_path / datasets, ignore=ignore)
    return tmp_path


def key(project):
    script = project / "gallery" / "pitfalls" / "plot_one.py"
    return freshness.page_key(script, freshness.environment_key(project), project)


# What the page imports by a name that two packages pass on, and what that imports; what it reads.
CHANGES_IT = [
    ".ci/constraints.txt", "bnref/__init__.py", "bnref/layers/__init__.py", "bnref/layers/norm.py",
    "bnref/statistics.py", "bnref/training/__init__.py", "bnref/training/loop.py",
    "gallery/bnref_gallery/models.py", "gallery/bnref_gallery/recorded/sweep.csv",
    "gallery/pitfalls/plot_one.py",
]  # fmt: skip
LEAVES_IT = [
    "README.md", "bnref/folding.py", "bnref/layers/other.py", "docs/index.md",
    "gallery/bnref_gallery/recorded/unread.csv", "gallery/bnref_gallery/timing.py",
    "gallery/pitfalls/plot_other.py",
]  # fmt: skip


@pytest.mark.parametrize("name", CHANGES_IT + LEAVES_IT)
def test_a_page_runs_again_when_what_it_depends_on_changes_and_not_otherwise(project, name):
    before = key(project)
    with (project / name).open("a") as file:
        file.write("# more\n")
    assert (key(project) != before) == (name in CHANGES_IT)


@pytest.mark.parametrize(
    "old, new, concerns",
    [
        ("[bite]", 'fixed_in = "3.16"\n[bite]', True),
        ("3.15.1", "3.15.2", True),
        ("[claws]", "[claw]", True),
        ("[bite]", '[bite]\nfixed_in = "3.16"', False),
        ("[bite]", "[barks]", False),
        ("[claws]", "# a remark\n[claws]", False),
    ],
)
def test_a_page_runs_again_when_its_defect_changes_and_not_when_another_does(
    project, old, new, concerns
):
    before, file = key(project), project / "gallery" / "bnref_gallery" / "defects.toml"
    file.write_text(DEFECTS.replace(old, new, 1), "utf-8")
    assert (key(project) != before) == concerns


# A module of each kind, and the words by which a page of this gallery uses it: the library's room
# for TensorFlow 1, one variant, what all layers stand on, a room of the loop, props, a record.
EDITS = {
    "bnref/tf1/_towers.py": r"import .*\btf1\b",
    "bnref/layers/sync_batch_norm.py": (
        r"(?<!\")\bbnref\.SyncBatchNorm\b|(from|import) bnref.*\blayers\b"
    ),
    "bnref/moving_average.py": r"^(from|import) .*\bmoving_average\b",
    "bnref/training/_checkpoints.py": r"import .*\btraining\b",
    "gallery/bnref_gallery/timing.py": r"import .*\btiming\b",
    "gallery/bnref_gallery/records/_table.py": r"import .*\brecords\b",
    "gallery/bnref_gallery/recorded/two_towers.csv": r"two_towers\.csv",
    "gallery/bnref_gallery/conformance/asking.py": r"import .*\bconformance\b",
    "bnref/workers/__main__.py": r"never imported",
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the sources, and a page's key at a time."""
    folder = tmp_path_factory.mktemp("sources")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("bnref", "gallery", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    return folder


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_concerns_the_pages_that_use_what_was_edited_and_no_other(copied, name):
    def keys():
        return {each: freshness.page_key(each, "", copied) for each in scripts}

    scripts, edited = sorted(copied.glob("gallery/*/plot_*.py")), copied / name
    before, text = keys(), edited.read_bytes()
    edited.write_bytes(text + b"# more\n")
    after = keys()
    edited.write_bytes(text)
    again = {each.stem for each in scripts if after[each] != before[each]}
    wanted = {
        each.stem for each in scripts if re.search(EDITS[name], each.read_text("utf-8"), re.M)
    }
    assert again == wanted and len(scripts) > len(again)


@pytest.mark.parametrize(
    "source, found",
    [
        ("import bnref\nbnref.SyncBatchNorm()", ["bnref.SyncBatchNorm"]),
        ("import bnref\ngetattr(bnref, name)", ["bnref"]),
        ("import bnref.layers.batch_norm as b\nb.math", [
            "bnref.layers.batch_norm", "bnref.layers.batch_norm.math"]),
        ("def f():\n    from bnref.layers import Norm as N", ["bnref.layers.Norm"]),
        ("from . import files\nfrom .names import one", ["package.files", "package.names.one"]),
        ("RUN = \"import bnref\\nbnref.Norm()\"", ["bnref.Norm"]),
        ("RUN = \"import bnref\\n{body}.\"", ["bnref", "bnref_gallery"]),
        ("'Nothing of bnref is imported here.'", []),
    ],
)  # fmt: skip
def test_the_names_that_a_source_uses(source, found):
    assert sorted(imports.uses(source, "package")) == found


@pytest.mark.parametrize("variable, value", [("BNREF_SCALE", "full"), ("BNREF_DEVICE", "GPU")])
def test_a_page_runs_again_on_another_scale_or_device(project, monkeypatch, variable, value):
    before = key(project)
    monkeypatch.setenv(variable, value)
    assert key(project) != before


def test_a_page_runs_again_when_its_data_would_come_from_elsewhere(project, monkeypatch):
    before, folder = key(project), project / "data"
    folder.mkdir()
    monkeypatch.setenv("BNREF_DATA", str(folder))
    assert key(project) == before, "an empty folder changes nothing"
    (folder / "mnist.npz").write_bytes(b"12345")
    assert key(project) != before


def test_looking_where_the_data_is_imports_neither_the_package_nor_tensorflow():
    slow = {"bnref", "keras", "tensorflow"}
    code = f"import sys, freshness; freshness.data_sources(); print({slow} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "docs" / "_ext")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_a_file_that_only_moved_in_time_changes_nothing(project):
    before = key(project)
    for path in project.rglob("*.*"):
        os.utime(path, (1, 1))
    assert key(project) == before


class Checkout:
    """A copy of the checkout with the cache of executed pages and nothing rendered."""

    def __init__(self, folder):
        names = ["bnref", "docs", "gallery", "tests", ".ci", ".cache", "pyproject.toml"]
        ignore = shutil.ignore_patterns("_build", "__pycache__")
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(
                ROOT / name,
                folder / name,
                **({"ignore": ignore} if copy is shutil.copytree else {}),
            )
        self.folder, self.site = folder, folder / "docs" / "_build" / "html"

    def build(self):
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        command = [sys.executable, "docs/build.py", "html"]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def executed(self):
        """When each page was executed."""
        return {path.name: path.read_bytes() for path in self.folder.glob("docs/gallery/_foot/*")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    if not (ROOT / "docs" / "_build" / "html" / "index.html").exists():
        pytest.skip("the site is not built: make html")
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    checkout.before = checkout.executed()
    checkout.first = checkout.build()
    return checkout


def test_a_fresh_checkout_with_the_cache_restored_executes_nothing(checkout):
    assert checkout.first.returncode == 0, (
        checkout.first.stdout[-3000:] + checkout.first.stderr[-3000:]
    )
    assert (checkout.site / "index.html").exists()
    assert "Executing notebook" not in checkout.first.stdout
    assert checkout.before and checkout.executed() == checkout.before


def test_a_page_whose_claim_fails_stops_the_build_and_leaves_the_last_good_site(checkout):
    good = (checkout.site / "index.html").read_bytes()
    page = checkout.folder / "gallery" / "pitfalls" / "plot_a_false_claim.py"
    page.write_text('"""\nA false claim\n=============\n\nText.\n"""\n\nassert 1 + 1 == 3\n')
    (checkout.folder / "docs" / "index.md").write_text("# Another title\n")
    failed = checkout.build()
    assert failed.returncode != 0
    assert "plot_a_false_claim.py" in failed.stderr + failed.stdout
    assert (checkout.site / "index.html").read_bytes() == good
    assert checkout.executed().items() >= checkout.before.items(), "nothing else ran again"
