"""How a file was made: collected where it is written, said in a sentence where it is shown."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_LIBRARIES = ("tensorflow", "keras", "numpy", "bnref")
_TITLES = {"tensorflow": "TensorFlow", "keras": "Keras", "numpy": "NumPy", "bnref": "bnref"}


def provenance_line(provenance: Mapping) -> str:
    """Say in one sentence how a file was made.

    Parameters
    ----------
    provenance : dict of str
        As `read` returns it.

    Raises
    ------
    ValueError
        If an entry that `Record` always writes is missing.
    """
    needed = ("date", "command", "commit", "device", "python", *_LIBRARIES)
    if absent := [key for key in needed if key not in provenance]:
        raise ValueError(f"provenance has no {', '.join(absent)}; it has {', '.join(provenance)}")
    said = {key: provenance[key].replace("; ", " and ") for key in needed}
    days = dict.fromkeys(date[:10] for date in provenance["date"].split("; "))
    commit = said["commit"].replace("+", " with uncommitted changes")
    versions = ", ".join(f"{_TITLES[key]} {said[key]}" for key in _LIBRARIES)
    return (
        f"Recorded {' and '.join(days)} by `{provenance['command']}` at commit {commit} on "
        f"{provenance['device']}, with Python {said['python']}, {versions}."
    )


def merge(earlier, now):
    """Return the entries of both; a value that has changed is added after ``;``."""
    merged = dict(earlier)
    for key, value in now.items():
        if not isinstance(key, str) or not key.isprintable() or ":" in key:
            raise ValueError(f"provenance accepts keys of one line without ':'; received {key!r}")
        value = " ".join(str(value).split())  # one line, as the head of the file needs
        before = merged.setdefault(key, value)
        if value != before and value not in before.split("; "):
            merged[key] = f"{before}; {value}"
    return merged


def collect(path):
    """Return the entries that every file has; `path` is the file that they are for."""
    script, *arguments = sys.argv or [""]
    folder = Path(script).resolve().parent if Path(script).is_file() else Path.cwd()
    root = Path(_git(folder, "rev-parse", "--show-toplevel") or folder)
    if Path(script).is_file() and Path(script).resolve().is_relative_to(root):
        script = str(Path(script).resolve().relative_to(root))  # the same on every machine
    return {
        "command": shlex.join(["python", script, *arguments]),
        "commit": _commit(root, path),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **_machine(),
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: _version(name) for name in _LIBRARIES},
    }


def _machine():
    """The device and the cores, of which TensorFlow knows, where it is installed."""
    if find_spec("tensorflow") is None:  # a sweep of another framework, that runs without it
        return {"device": f"CPU, {platform.machine()}", "cores": os.cpu_count() or 1}
    from bnref_gallery import scale

    return {"device": scale.describe(), "cores": scale.cores()}


def _commit(root, path):
    commit = _git(root, "rev-parse", "--short", "HEAD")
    if not commit:
        return "unknown"
    # The file being continued has changed since the commit, but no code reads it.
    inside = path.resolve().is_relative_to(root.resolve())
    but_not = [f":(exclude,literal){path.resolve()}"] if inside else []
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *but_not)
    return f"{commit}+" if changed else commit


def _git(folder, *arguments):
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
