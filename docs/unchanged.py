"""Whether anything that a site is made of has changed since it was built.

Sphinx finds out page by page which of them must be read again, which takes a quarter of a minute
even where none must. One digest over everything that it would look at says so at once.
"""

import hashlib
import os
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTENSIONS = str(ROOT / "docs" / "_ext")
SOURCES = ("docs", "gallery", "bnref", ".ci", "tests/search_phrases.toml", "CHANGELOG.md",
           "CITATION.cff", "LICENSE", "README.md", "pyproject.toml")  # fmt: skip
MADE = {"_build", "node_modules", "__pycache__", ".ipynb_checkpoints"}
VARIABLES = ("BNREF_", "GITHUB_REPOSITORY", "GITHUB_SERVER_URL", "TF_NUM_")


def key(root=ROOT):
    """Digest of the sources, the installed packages, the data sets and the settings of a build."""
    if EXTENSIONS not in sys.path:
        sys.path.append(EXTENSIONS)
    from freshness import environment_key

    digest = hashlib.sha256(environment_key(Path(root)).encode())
    packages = [path.name for path in Path(sysconfig.get_path("purelib")).glob("*.dist-info")]
    settings = [f"{name}={text}" for name, text in os.environ.items() if name.startswith(VARIABLES)]
    for each in sorted(packages + settings):
        digest.update(f"{each}\0".encode())
    for path in sources(Path(root)):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def sources(root):
    """The files that a build reads, without those that builds have made."""
    found = []
    for name in SOURCES:
        start = Path(root, name)
        found += [start] if start.is_file() else []
        for folder, folders, files in os.walk(start):
            made_here = MADE | ({"gallery"} if Path(folder) == root / "docs" else set())
            folders[:] = [each for each in folders if each not in made_here]
            found += [Path(folder, file) for file in files]
    return sorted(found)


def is_built(site, now):
    """Whether a site is there, and is that of this key."""
    mark = mark_of(site)
    return Path(site, "index.html").exists() and mark.exists() and mark.read_text() == now


def mark_of(site):
    """The file beside a site that holds the key that it was built with."""
    return Path(site).with_suffix(".key")
