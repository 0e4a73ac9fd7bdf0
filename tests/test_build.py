"""The build's driver: what it prints, and how a finished site replaces the last one."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"

import as_markdown  # noqa: E402
import build  # noqa: E402  (it lies in docs/)
import lighten  # noqa: E402
import unchanged  # noqa: E402


@pytest.fixture(autouse=True)
def sites_of_one_word_are_light(monkeypatch):
    monkeypatch.setattr(as_markdown, "write", lambda site: None)
    monkeypatch.setattr(lighten, "lighten", lambda site: None)


def test_noise_is_dropped_and_every_other_line_arrives_from_children_too():
    code = """
import os, sys, build
with build.filtered_stderr():
    print("a warning of the build", file=sys.stderr)
    os.system("echo 'I0000 00:00 cudart_stub.cc:31] no cuda' >&2; echo 'from a child' >&2")
print("afterwards", file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=DOCS, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == ["a warning of the build", "from a child", "afterwards"]


def test_a_finished_site_replaces_the_last_one_whole(tmp_path):
    output, site = tmp_path / "work", tmp_path / "html"
    for folder, text in ((output, "new"), (site, "old")):
        folder.mkdir()
        (folder / "index.html").write_text(text)
    (site / "removed.html").write_text("old")
    build.publish(output, site)
    assert (site / "index.html").read_text() == "new"
    assert sorted(path.name for path in site.iterdir()) == ["index.html", "site.zip"]
    with zipfile.ZipFile(site / "site.zip") as archive:
        assert archive.namelist() == ["bnref/index.html"], "to be read without a network"
        assert archive.read("bnref/index.html") == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["html", "work"]


def test_an_interrupted_copy_leaves_the_last_site(tmp_path, monkeypatch):
    output, site = tmp_path / "work", tmp_path / "html"
    for folder, text in ((output, "new"), (site, "old")):
        folder.mkdir()
        (folder / "index.html").write_text(text)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build.shutil, "copytree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build.publish(output, site)
    assert (site / "index.html").read_text() == "old"
    build.publish(output, site)
    assert (site / "index.html").read_text() == "new"


def test_a_site_that_cannot_be_made_lighter_leaves_the_last_one(tmp_path, monkeypatch):
    output, site = tmp_path / "work", tmp_path / "html"
    for folder, text in ((output, "new"), (site, "old")):
        folder.mkdir()
        (folder / "index.html").write_text(text)
    monkeypatch.setattr(lighten, "lighten", lambda site: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build.publish(output, site)
    assert (site / "index.html").read_text() == "old"


@pytest.mark.parametrize("status, kept", [(0, True), (2, False)])
def test_after_a_failure_the_next_build_reads_every_page(tmp_path, monkeypatch, status, kept):
    def run(builder, doctrees, output):
        for folder in (doctrees, output):
            folder.mkdir(parents=True)
        return status

    monkeypatch.setattr(build, "BUILD", tmp_path)
    monkeypatch.setattr(build, "run_sphinx", run)
    monkeypatch.setattr(build, "prepare_environment", lambda mode: None)
    assert build.main("html") == status
    assert (tmp_path / "doctrees-html").exists() == kept
    assert (tmp_path / "html").exists() == kept
    assert unchanged.mark_of(tmp_path / "html").exists() == kept


def test_a_site_of_which_nothing_has_changed_is_not_built_again(tmp_path, monkeypatch, capsys):
    """A new key, a site that is gone, a build that failed: each lets Sphinx run."""
    runs = []

    def run(builder, doctrees, output):
        runs.append(builder)
        output.mkdir(parents=True, exist_ok=True)
        (output / "index.html").write_text("a page")
        return statuses.pop(0)

    monkeypatch.setattr(build, "BUILD", tmp_path)
    monkeypatch.setattr(build, "run_sphinx", run)
    monkeypatch.setattr(build, "prepare_environment", lambda mode: None)
    keys = ["a", "a", "b", "c", "c", "c"]
    monkeypatch.setattr(unchanged, "key", lambda: keys[0])
    statuses, ran = [0, 0, 2, 0, 0], []
    for number, status in enumerate([0, 0, 0, 2, 0, 0]):
        if number == 5:
            (tmp_path / "html" / "index.html").unlink()
        assert build.main("html") == status
        ran.append(len(runs))
        keys.pop(0)
    assert ran == [1, 1, 2, 3, 4, 5]
    assert capsys.readouterr().out.count("Nothing has changed") == 1


def test_what_a_site_is_made_of_is_in_its_key(tmp_path, monkeypatch):
    """Sources and their names, installed packages and settings; nothing that a build makes."""
    kept = [
        "docs/index.md",
        "docs/_ext/finder.py",
        "gallery/a/plot_b.py",
        "bnref/c.py",
        "README.md",
    ]
    made = ["docs/_build/html/index.html", "docs/gallery/a/plot_b.rst", "bnref/__pycache__/c.pyc"]
    for name in [
        *kept,
        *made,
        ".ci/constraints.txt",
        "tests/search_phrases.toml",
        "tests/test_d.py",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    keys = [unchanged.key(tmp_path)]
    assert unchanged.key(tmp_path) == keys[0]
    for name in [*kept, ".ci/constraints.txt", "tests/search_phrases.toml"]:
        (tmp_path / name).write_text("edited")
        keys.append(unchanged.key(tmp_path))
    (tmp_path / "bnref" / "c.py").rename(tmp_path / "bnref" / "d.py")
    keys.append(unchanged.key(tmp_path))
    monkeypatch.setenv("BNREF_INSTALL", "bnref==7")
    keys.append(unchanged.key(tmp_path))
    (tmp_path / "sphinx-77.dist-info").mkdir()
    monkeypatch.setattr(unchanged.sysconfig, "get_path", lambda name: str(tmp_path))
    keys.append(unchanged.key(tmp_path))
    assert len(set(keys)) == len(keys) == 11
    for name in [*made, "tests/test_d.py"]:
        (tmp_path / name).write_text("edited")
    assert unchanged.key(tmp_path) == keys[-1]


def test_an_unknown_mode_is_refused_by_name():
    with pytest.raises(SystemExit, match="mode must be one of html, fast, linkcheck; received 'x'"):
        build.main("x")


DIED = "A worker process managed by the executor was unexpectedly terminated."


@pytest.mark.parametrize(
    "statuses, message, expected, runs",
    [
        ([2, 0, 2], DIED, 0, 2),
        ([2, 2, 0], DIED, 0, 3),
        ([2, 2, 2, 0], DIED, 2, 3),
        ([2, 0], "assert small < large", 2, 1),
        ([0, 2], DIED, 0, 1),
    ],
)
def test_only_a_build_whose_worker_died_runs_again(statuses, message, expected, runs):
    code = f"""
import sys, build
statuses = iter({statuses})
def run_sphinx(*_):
    print({message!r}, file=sys.stderr)
    return next(statuses)
build.run_sphinx = run_sphinx
print(build.run_with_second_chance("html", "doctrees", "output"), len(list(statuses)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=DOCS, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(expected), str(len(statuses) - runs)]
    assert done.stderr.count(message) == runs


def test_an_unknown_kind_of_device_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("BNREF_DEVICE", "TPU")
    with pytest.raises(SystemExit, match="BNREF_DEVICE must be one of CPU, GPU; received 'TPU'"):
        build.device_kind()


def test_an_unknown_scale_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("BNREF_SCALE", "huge")
    with pytest.raises(SystemExit, match="BNREF_SCALE must be one of quick, full; received 'huge'"):
        build.scale()


def test_processes_that_a_build_starts_are_without_what_tensorflow_does_not_need(monkeypatch):
    monkeypatch.setattr(build.os, "environ", dict(os.environ))
    monkeypatch.setenv("BNREF_DEVICE", "CPU")
    build.prepare_environment("fast")
    code = "import bnref.training, matplotlib, sys; print([n for n, m in sys.modules.items() if m])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=build.os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    there = set(ast.literal_eval(done.stdout))
    assert {"keras", "tensorflow", "matplotlib"} <= there
    assert not there & {"jax", "pandas", "scipy", "sklearn"}
