"""What a page is told when a framework has a defect, has lost it, or has it again."""

import re

import numpy as np
import pytest

from bnref_gallery import defects

SEEN = {"keras": "3.15.1", "tensorflow": "2.21.0"}


@pytest.fixture
def installed(monkeypatch):
    """Install a version of Keras, as far as `defect` can see."""

    def install(number):
        numbers = {"keras": number, "tensorflow": "99.0"}
        monkeypatch.setattr(defects, "version", numbers.__getitem__)

    return install


@pytest.mark.parametrize("shows", [True, np.True_])
def test_a_known_defect_that_shows_is_told_in_one_line_with_the_versions(installed, capsys, shows):
    installed("3.15.2")
    assert defects.defect("first_replica_saved", shows, seen_on=SEEN) is True
    assert capsys.readouterr().out == (
        "first replica saved: keras 3.15.2 here, shows the defect; seen on keras 3.15.1, "
        "tensorflow 2.21.0; not fixed in any version known to this page\n"
    )


@pytest.mark.parametrize("number", ["3.16", "3.16.0", "3.16.1", "3.100", "4.0"])
def test_a_defect_that_was_fixed_is_told_as_gone(installed, capsys, number):
    installed(number)
    assert defects.defect("a", np.False_, seen_on=SEEN, fixed_in="3.16") is False
    assert capsys.readouterr().out == (
        f"a: keras {number} here, gone; seen on keras 3.15.1, tensorflow 2.21.0; fixed in 3.16\n"
    )


@pytest.mark.parametrize("number", ["3.9", "3.15.9", "3.16.0rc1", "3.16.0.dev2026"])
def test_a_version_before_the_fix_must_show_the_defect(installed, capsys, number):
    installed(number)
    assert defects.defect("a", True, seen_on=SEEN, fixed_in="3.16") is True
    assert f"keras {number} here, shows the defect;" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=f"keras {re.escape(number)} does not show this.*3.16"):
        defects.defect("a", False, seen_on=SEEN, fixed_in="3.16")


def test_a_defect_that_is_gone_unawares_fails_and_says_what_to_write(installed, capsys):
    installed("3.16.2")
    with pytest.raises(AssertionError, match="keras 3.16.2 no longer shows .* fixed_in='3.16.2'"):
        defects.defect("a_mask", False, seen_on=SEEN)
    assert capsys.readouterr().out == ""


def test_a_defect_that_comes_back_fails_and_names_both_versions(installed):
    installed("3.17.0")
    with pytest.raises(AssertionError, match="keras 3.17.0 shows this .* fixed_in='3.16'"):
        defects.defect("a_mask", True, seen_on=SEEN, fixed_in="3.16")


def test_the_first_package_is_the_one_whose_version_counts(installed):
    installed("3.15.1")
    turned = dict(reversed(SEEN.items()))
    assert defects.defect("a", False, seen_on=turned, fixed_in="3.0") is False  # of TensorFlow
    with pytest.raises(ValueError, match=r"fixed_in must be after keras 3\.15\.1"):
        defects.defect("a", False, seen_on=SEEN, fixed_in="3.0")


def test_the_installed_version_is_the_real_one(capsys):
    import keras

    assert defects.defect("a", True, seen_on={"keras": "0.1"})
    assert f"keras {keras.__version__} here" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"name": "two words"}, ValueError, "name must be .* received 'two words'"),
        ({"name": "Upper"}, ValueError, "name must be in lower case .* received 'Upper'"),
        ({"name": 3}, ValueError, "name must be .* received 3"),
        ({"shows": 1}, TypeError, "shows must be True or False; received 1"),
        ({"shows": np.array([True])}, TypeError, "shows must be True or False; received array"),
        ({"seen_on": {}}, TypeError, "seen_on must map .* received {}"),
        ({"seen_on": "3.15.1"}, TypeError, "seen_on must map .* received '3.15.1'"),
        ({"seen_on": {"keras": "new"}}, ValueError, r"seen_on\['keras'\] must be a .* 'new'"),
        ({"seen_on": {"keras": 3.15}}, ValueError, r"seen_on\['keras'\] must be a .* 3.15"),
        ({"seen_on": {"kears": "3.15.1"}}, ValueError, "seen_on: no package 'kears' is installed"),
        ({"fixed_in": "soon"}, ValueError, "fixed_in must be a version .* received 'soon'"),
        ({"fixed_in": "3.15.1"}, ValueError, "fixed_in must be after keras 3.15.1.* '3.15.1'"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(changes, error, message):
    arguments = {"name": "a", "shows": True, "seen_on": SEEN, **changes}
    with pytest.raises(error, match=message):
        defects.defect(**arguments)
