"""What a page is told when a framework has a defect, has lost it, or has it again."""

import re
from pathlib import Path

import numpy as np
import pytest

from bnref_gallery import defects

GALLERY = Path(__file__).resolve().parents[1] / "gallery"
CALL = re.compile(r"\bdefects\.defect\(\s*\"(\w+)\"")
SEEN_ON = """
[first_replica_saved]
seen_on = { keras = "3.15.1", tensorflow = "2.21.0" }
pages = ["pitfalls/plot_a"]
"""


@pytest.fixture
def file(monkeypatch, tmp_path):
    """Return the file of defects, which has one, seen on Keras 3.15.1."""
    path = tmp_path / "defects.toml"
    path.write_text(SEEN_ON, "utf-8")
    monkeypatch.setattr(defects, "FILE", path)
    return path


@pytest.fixture
def installed(monkeypatch):
    """Install a version of Keras, as far as `defect` can see."""

    def install(number):
        numbers = {"keras": number, "tensorflow": "99.0"}
        monkeypatch.setattr(defects, "version", numbers.__getitem__)

    return install


def fix(file, number):
    file.write_text(f'{SEEN_ON}fixed_in = "{number}"\n', "utf-8")


def told(shows):
    return defects.defect("first_replica_saved", shows)


@pytest.mark.parametrize("shows", [True, np.True_])
def test_a_known_defect_that_shows_is_told_in_one_line_with_the_versions(
    file, installed, capsys, shows
):
    installed("3.15.2")
    assert told(shows) is True
    assert capsys.readouterr().out == (
        "first replica saved: keras 3.15.2 here, shows the defect; seen on keras 3.15.1, "
        "tensorflow 2.21.0; not fixed in any version known to this page\n"
    )


@pytest.mark.parametrize("number", ["3.16", "3.16.0", "3.16.1", "3.100", "4.0"])
def test_a_defect_that_was_fixed_is_told_as_gone(file, installed, capsys, number):
    installed(number)
    fix(file, "3.16")
    assert told(np.False_) is False
    assert capsys.readouterr().out == (
        f"first replica saved: keras {number} here, gone; seen on keras 3.15.1, tensorflow 2.21.0; "
        "fixed in 3.16\n"
    )


@pytest.mark.parametrize("number", ["3.9", "3.15.9", "3.16.0rc1", "3.16.0.dev2026"])
def test_a_version_before_the_fix_must_show_the_defect(file, installed, capsys, number):
    installed(number)
    fix(file, "3.16")
    assert told(True) is True
    assert f"keras {number} here, shows the defect;" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=f"keras {re.escape(number)} does not show this.*3.16"):
        told(False)


def test_a_defect_that_is_gone_unawares_fails_and_says_what_to_write(file, installed, capsys):
    installed("3.16.2")
    wanted = 'keras 3.16.2 does not show .* set fixed_in = "3.16.2", .*defects.toml'
    with pytest.raises(AssertionError, match=wanted):
        told(False)
    assert capsys.readouterr().out == ""


def test_a_defect_that_comes_back_fails_and_names_both_versions(file, installed):
    installed("3.17.0")
    fix(file, "3.16")
    with pytest.raises(AssertionError, match="keras 3.17.0 shows this .* fixed_in is '3.16'"):
        told(True)


def test_the_first_package_is_the_one_whose_version_counts(file, installed):
    installed("3.15.1")
    turned = '{ tensorflow = "2.21.0", keras = "3.15.1" }'
    text = re.sub("{.*}", turned, SEEN_ON)
    file.write_text(f'{text}fixed_in = "3.0"\n', "utf-8")
    assert told(False) is False  # of TensorFlow 99
    fix(file, "3.0")
    with pytest.raises(ValueError, match=r"fixed_in: must be a version after keras 3\.15\.1"):
        told(False)


def test_the_installed_version_is_the_real_one(file, capsys):
    import keras

    file.write_text('[a]\nseen_on = { keras = "0.1" }\npages = ["b"]', "utf-8")
    assert defects.defect("a", True)
    assert f"keras {keras.__version__} here" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("two_towers", True), ValueError, "one of first_replica_saved; received 'two_towers'"),
        ((3, True), ValueError, "name must be .* received 3"),
        (("first_replica_saved", 1), TypeError, "shows must be True or False; received 1"),
        (("first_replica_saved", np.array([True])), TypeError, "True or False; received array"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(file, arguments, error, message):
    with pytest.raises(error, match=message):
        defects.defect(*arguments)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("[first_replica_saved]", "[first_replica", ": Expected ']'"),
        ("[first_replica_saved]", "a = 1\n[b]", "a: must be a table; received 1"),
        ("[first_replica_saved]", "['a b']", "a b: must be in lower case .* received 'a b'"),
        ("[first_replica_saved]", "[Upper]", "Upper: must be in lower case .* received 'Upper'"),
        ("pages =", "page =", r"first_replica_saved\.page: must be one of .* received 'page'"),
        ('["pitfalls/plot_a"]', "[]", r"first_replica_saved\.pages: must be a list .* \[\]"),
        ('["pitfalls/plot_a"]', "'a'", r"first_replica_saved\.pages: must be a list .* 'a'"),
        ("seen_on = {", "seen_on = {}  # {", r"saved\.seen_on: must be versions .* {}"),
        ("seen_on = {", "seen_on = '3'  # {", r"saved\.seen_on: must be versions .* '3'"),
        ("seen_on = {", "# {", r"first_replica_saved\.seen_on: must be .* received None"),
        ('"3.15.1"', '"new"', r"saved\.seen_on\.keras: must be a version .* received 'new'"),
        ('"3.15.1"', "3.15", r"saved\.seen_on\.keras: must be a version .* received 3.15"),
        ("keras =", "kears =", "first_replica_saved.seen_on: no package 'kears' is installed"),
        ("pages", "fixed_in = 'soon'\npages", r"saved\.fixed_in: must be .* received 'soon'"),
        ("pages", "fixed_in = '3.15.1'\npages", "must be a version after keras 3.15.1; .*'3.15.1'"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_path_and_its_key(file, old, new, message):
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}.*{message}"):
        told(True)


def test_the_file_lists_the_pages_that_assert_a_defect_and_no_others():
    asserted = {
        (name, f"{script.parent.name}/{script.stem}")
        for script in GALLERY.glob("*/plot_*.py")
        for name in CALL.findall(script.read_text("utf-8"))
    }
    listed = {(name, page) for name, each in defects.known().items() for page in each.pages}
    assert listed == asserted and len(listed) >= 10
