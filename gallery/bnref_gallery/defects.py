"""Defects of the frameworks: a page asserts that one is there, and learns when it is gone."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from packaging.version import InvalidVersion, Version

__all__ = ["defect"]


def defect(name: str, shows: bool, *, seen_on: Mapping, fixed_in: str | None = None) -> bool:
    """Assert that a framework has a defect, or that it has been rid of it since `fixed_in`.

    Called in the last cell of a page with what the page measured. Prints one line that says on
    which versions the defect was seen, and since which it is gone. The build fails on the day a
    version without the defect is installed; then `fixed_in` is the one thing to change.

    Parameters
    ----------
    name : str
        Of the defect, in lower case with underscores: its report is ``docs/upstream/<name>.md``.
    shows : bool
        Whether the installed version shows the defect, as measured.
    seen_on : mapping of str to str
        Versions under the names of distributions, such as ``{"keras": "3.15.1", "tensorflow":
        "2.21.0"}``: first the one that has the defect, whose installed version counts.
    fixed_in : str, optional
        The first version without the defect. None: no such version is known.

    Returns
    -------
    bool
        `shows`, so that a page can assert its figures where they hold.

    Raises
    ------
    AssertionError
        The defect is gone though `fixed_in` is None or later than the installed version, or it
        is there though the installed version is `fixed_in` or later.
    TypeError, ValueError
        `name` is no such name, `shows` no bool, `seen_on` empty, its first distribution not
        installed, something in it or `fixed_in` no version, or `fixed_in` not after `seen_on`.
    """
    package, seen = _check(name, shows, seen_on, fixed_in)
    installed = _installed(package)
    known = fixed_in is not None
    expected = fixed_in is None or Version(installed) < Version(fixed_in)
    words, here = name.replace("_", " "), f"{package} {installed}"
    if shows and not expected:
        raise AssertionError(
            f"{here} shows this defect, {words}, though fixed_in={fixed_in!r}: set fixed_in to the "
            "first version without it, or to None"
        )
    if expected and not shows:
        now = f"{here} no longer shows this defect, {words}" if not known else (
            f"{here} does not show this defect, {words}, though it is before fixed_in={fixed_in!r}"
        )  # fmt: skip
        raise AssertionError(f"{now}: set fixed_in={installed!r}, or to the first without it")
    state = "shows the defect" if shows else "gone"
    until = f"fixed in {fixed_in}" if known else "not fixed in any version known to this page"
    print(f"{words}: {here} here, {state}; seen on {seen}; {until}")
    return bool(shows)


def _check(name, shows, seen_on, fixed_in):
    """The package at fault, and all that the defect was seen on in words."""
    if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
        raise ValueError(f"name must be in lower case with underscores; received {name!r}")
    if not isinstance(shows, bool | np.bool_):
        raise TypeError(f"shows must be True or False; received {shows!r}")
    if not isinstance(seen_on, Mapping) or not seen_on:
        raise TypeError(f"seen_on must map names of packages to versions; received {seen_on!r}")
    for package, number in seen_on.items():
        _check_version(f"seen_on[{package!r}]", number)
    package = next(iter(seen_on))
    if fixed_in is not None:
        _check_version("fixed_in", fixed_in)
        if Version(fixed_in) <= Version(seen_on[package]):
            raise ValueError(
                f"fixed_in must be after {package} {seen_on[package]}, on which the defect was "
                f"seen; received {fixed_in!r}"
            )
    return package, ", ".join(f"{each} {number}" for each, number in seen_on.items())


def _check_version(argument, number):
    try:
        Version(number)
    except (InvalidVersion, TypeError) as error:
        raise ValueError(
            f"{argument} must be a version such as '3.15.1'; received {number!r}"
        ) from error


def _installed(package):
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise ValueError(f"seen_on: no package {package!r} is installed") from error
