"""Defects of the frameworks: a page asserts that one is there, and learns when it is gone.

On which versions each was seen, and since which it is gone, stands in ``defects.toml`` beside this
module. Pages, the site's table and notes, and the tests of the reports all read it there.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from packaging.version import InvalidVersion, Version

__all__ = ["Defect", "defect", "known"]

FILE = Path(__file__).with_name("defects.toml")
KEYS = ("seen_on", "pages", "fixed_in")


@dataclass(frozen=True)
class Defect:
    """What the file says of one defect.

    Attributes
    ----------
    name : str
        In lower case with underscores: the report is ``docs/upstream/<name>.md``.
    seen_on : dict of str
        Versions under the names of distributions, first the one that has the defect.
    pages : tuple of str
        The gallery's pages that assert it, such as ``"pitfalls/plot_second_derivatives"``.
    fixed_in : str or None
        The first version without the defect. None: no such version is known.
    """

    name: str
    seen_on: Mapping
    pages: tuple
    fixed_in: str | None

    @property
    def words(self) -> str:
        """The name as words."""
        return self.name.replace("_", " ")

    @property
    def package(self) -> str:
        """The distribution that has the defect."""
        return next(iter(self.seen_on))

    @property
    def installed(self) -> str:
        """The installed version of that distribution."""
        try:
            return version(self.package)
        except PackageNotFoundError as error:
            key = f"{self.name}.seen_on"
            raise ValueError(f"{FILE}, {key}: no package {self.package!r} is installed") from error

    @property
    def is_fixed(self) -> bool:
        """Whether the installed version is without the defect, as far as the file knows."""
        return self.fixed_in is not None and Version(self.installed) >= Version(self.fixed_in)


def defect(name: str, shows: bool) -> bool:
    """Assert that a framework has a defect, or that the installed version is rid of it.

    Called in the last cell of a page with what the page measured. Prints one line that says on
    which versions the defect was seen, and since which it is gone. The build fails on the day a
    version without the defect is installed; then `fixed_in` in ``defects.toml`` is the one thing
    to change.

    Parameters
    ----------
    name : str
        Of the defect: a table of ``defects.toml``.
    shows : bool
        Whether the installed version shows the defect, as measured.

    Returns
    -------
    bool
        `shows`, so that a page can assert its figures where they hold.

    Raises
    ------
    AssertionError
        The defect is gone though the file gives no `fixed_in`, or one later than the installed
        version; or it is there though the installed version is `fixed_in` or later.
    TypeError, ValueError
        `shows` is no bool, the file has no such defect or is not as it must be (see `known`), or
        the distribution that has the defect is not installed.
    """
    if not isinstance(shows, bool | np.bool_):
        raise TypeError(f"shows must be True or False; received {shows!r}")
    defects = known()
    if name not in defects:
        raise ValueError(f"name must be one of {', '.join(defects)}; received {name!r}")
    one = defects[name]
    if bool(shows) == one.is_fixed:
        raise AssertionError(_surprise(one))
    state = "shows the defect" if shows else "gone"
    seen = ", ".join(f"{each} {number}" for each, number in one.seen_on.items())
    until = "not fixed in any version known to this page"
    if one.fixed_in:
        until = f"fixed in {one.fixed_in}"
    print(f"{one.words}: {one.package} {one.installed} here, {state}; seen on {seen}; {until}")
    return bool(shows)


def _surprise(one):
    """What to say, and to do, where the installed version is not as the file has it."""
    here = f"{one.package} {one.installed}"
    if one.is_fixed:
        return (
            f"{here} shows this defect, {one.words}, though fixed_in is {one.fixed_in!r}: set it "
            f"to the first version without the defect in {FILE}, or take it out"
        )
    before = f", though it is before fixed_in = {one.fixed_in!r}" if one.fixed_in else ""
    return (
        f"{here} does not show this defect, {one.words}{before}: set fixed_in = "
        f'"{one.installed}", or the first version without it, in {FILE}'
    )


def known() -> dict[str, Defect]:
    """Read all defects.

    Returns
    -------
    dict of str to Defect
        By name, in the order of the file.

    Raises
    ------
    ValueError
        Naming file and key: it is no TOML, a key is missing or unknown, a name is not in lower case
        with underscores, `pages` or `seen_on` is empty, something in `seen_on` or `fixed_in` is no
        version, or `fixed_in` is not after the version in `seen_on`.
    """
    try:
        tables = tomllib.loads(FILE.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{FILE}: {error}") from error
    return {name: _defect(name, table) for name, table in tables.items()}


def _defect(name, table):
    """One table of the file, checked."""
    if not name.isidentifier() or name != name.lower():
        raise _refusal(name, "in lower case with underscores", name)
    if not isinstance(table, dict):
        raise _refusal(name, "a table", table)
    for key in table:
        if key not in KEYS:
            raise _refusal(f"{name}.{key}", f"one of {', '.join(KEYS)}", key)
    seen_on, pages, fixed_in = (table.get(key) for key in KEYS)
    if not isinstance(seen_on, dict) or not seen_on:
        raise _refusal(f"{name}.seen_on", "versions by the name of a distribution", seen_on)
    for package, number in seen_on.items():
        if not _is_version(number):
            raise _refusal(f"{name}.seen_on.{package}", "a version such as '3.15.1'", number)
    if not isinstance(pages, list) or not pages:
        raise _refusal(f"{name}.pages", "a list of pages", pages)
    package, seen = next(iter(seen_on.items()))
    is_later = _is_version(fixed_in) and Version(fixed_in) > Version(seen)
    if "fixed_in" in table and not is_later:
        raise _refusal(f"{name}.fixed_in", f"a version after {package} {seen}", fixed_in)
    return Defect(name, seen_on, tuple(pages), fixed_in)


def _refusal(key, wanted, received):
    return ValueError(f"{FILE}, {key}: must be {wanted}; received {received!r}")


def _is_version(number):
    try:
        Version(number)
    except (InvalidVersion, TypeError):
        return False
    return True
