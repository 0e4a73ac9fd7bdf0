"""The wheel, installed outside the checkout where nothing is but what it asks for.

Such an environment would take minutes to download. Here its packages are links to those of the
environment that runs the test, to each one that the wheel's own metadata leads to, and to no other:
a dependency that is not declared is missing as it would be for a reader.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from helpers import ROOT
from packaging.requirements import Requirement

import bnref

BUILT_FROM = [
    "bnref", "gallery", "LICENSE", "README.md",
    "pyproject.toml",
]  # fmt: skip
# It reads a recorded file, which must travel with the wheel.
SCRIPT = ROOT / "gallery/questions/plot_noisy_validation_and_the_answers_rules.py"
WITHOUT_IMAGES = """
import importlib, pkgutil, bnref, bnref_gallery
from bnref_gallery import datasets
for each in (bnref, bnref_gallery):
    for module in pkgutil.walk_packages(each.__path__, f"{each.__name__}."):
        if not module.name.startswith("bnref_gallery.conformance"):  # with extras of its own
            importlib.import_module(module.name)
try:
    datasets.load("mnist")
except ModuleNotFoundError as error:
    print(error)
"""


def run(*words, cwd, **variables):
    """What a command prints; its folder is empty, and its variables lead to nothing of ours."""
    unset = {"BNREF_DATA", "PYTHONPATH", "TF_CONFIG"}
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**environment, "CUDA_VISIBLE_DEVICES": "-1", "BNREF_DOWNLOAD": "0",
             "MPLBACKEND": "Agg", "KERAS_HOME": str(cwd), **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The source archive, and the wheel that is built from it, by the command of `make dist`."""
    folder = tmp_path_factory.mktemp("source")
    for name in [*BUILT_FROM, "Makefile", "tests"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder)
    (source,), (wheel,) = folder.glob("dist/*.tar.gz"), folder.glob("dist/*.whl")
    return source, wheel


def asked_for(requirements, extra):
    """The distributions that requirements lead to; ``extra`` is that of their owner."""
    found, waiting = {}, [(each, extra) for each in requirements]
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        distribution = metadata.distribution(requirement.name)
        for each in {"", *requirement.extras}:
            if (distribution.name, each) not in found:
                found[distribution.name, each] = distribution
                waiting += [(needed, each) for needed in distribution.requires or []]
    return {name: distribution for (name, _), distribution in found.items()}


@pytest.fixture(scope="module")
def environments(archives, tmp_path_factory):
    """The interpreter of an environment without the extra, and of one with it."""
    found = {}
    for extra in ("", "gallery"):
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, symlinks=True)
        python, wheel = folder / "bin" / "python", archives[1]
        pip = [sys.executable, "-m", "pip", "--python", python]
        run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
        (site,) = folder.glob("lib/python*/site-packages")
        (own,) = metadata.distributions(name="bnref", path=[str(site)])
        for distribution in asked_for(own.requires, extra).values():
            for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
                if not (site / top).exists():  # two distributions may share a folder
                    (site / top).symlink_to(distribution.locate_file(top))
        found[extra] = python
    return found


def last_line(python, code, folder):
    """The last line that a program prints, in which ``bnref`` is that of the wheel."""
    code += "\nprint(bnref.__version__, bnref.__file__)"
    *_, last, origin = run(python, "-c", code, cwd=folder).splitlines()
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    assert origin == f"{bnref.__version__} {site / 'bnref' / '__init__.py'}"
    return last


def test_without_the_extra_every_module_is_there_and_missing_images_are_named(
    environments, tmp_path
):
    said = last_line(environments[""], WITHOUT_IMAGES, tmp_path)
    assert said.startswith("no images") and 'pip install "bnref[gallery]"' in said


def test_with_the_extra_the_lines_of_the_readme_run(environments, tmp_path):
    readme = (ROOT / "README.md").read_text("utf-8")
    train, examine = re.findall(r"^```python\n(.+?)^```", readme, re.M | re.S)
    said = last_line(environments["gallery"], train, tmp_path)
    assert re.fullmatch(r"loss 0\.\d+, accuracy 0\.[89]\d+", said)
    said = run(environments["gallery"], "-c", train + examine, cwd=tmp_path)
    assert re.search(r"^1 batch norm, 16 batches of 64: ", said, re.M), said


def test_with_the_extra_a_downloaded_script_runs_alone(environments, tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    assert run(environments["gallery"], SCRIPT.name, cwd=tmp_path)


def test_wheel_and_source_archive_have_the_package_and_nothing_odd(archives):
    source, wheel = archives
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    wanted = {
        path.relative_to(home).as_posix()
        for home, package in ((ROOT, "bnref"), (ROOT / "gallery", "bnref_gallery"))
        for kind in ("*.py", "*.csv", "*.toml")
        for path in (home / package).rglob(kind)
    }
    about = {each for each in names if ".dist-info/" in each}
    assert names - about == {*wanted, "bnref/py.typed"}
    with tarfile.open(source) as file:
        inside = {Path(name).parts[1] for name in file.getnames() if "/" in name}
    # setuptools adds the tests by itself.
    assert inside - {"PKG-INFO", "bnref.egg-info", "setup.cfg", "tests"} == set(BUILT_FROM)
