"""Decide which pages must run: a key over all that can change what a page shows.

A gallery page runs again when its script, a recorded result it reads, what is known of a defect
that it names, a module that it imports or that those import, the pinned versions, Python, the
scale, the kind of device or the data it would be built with change. sphinx-gallery itself looks at
the script alone; where the key beside its generated page differs, the mark that calls the page
finished is removed.
"""

import hashlib
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

from imports import files_behind, packages
from project import ROOT

KEPT_NOTEBOOK_CACHES = 4
# A cell of a MyST page: its options, as lines or between dashes, and its code.
CELL = re.compile(r"^```\{code-cell\}.*\n(?:---\n(?:.*\n)*?---\n|(?::.*\n)*)((?:.*\n)*?)```$", re.M)


def environment_key(root=ROOT):
    """Digest of everything that all pages share."""
    digest = hashlib.sha256((root / ".ci" / "constraints.txt").read_bytes())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    scale, device = os.environ.get("BNREF_SCALE", "quick"), os.environ.get("BNREF_DEVICE", "CPU")
    digest.update("\0".join([python, scale, device, *data_sources()]).encode())
    return digest.hexdigest()


def digest_of_files(paths, root):
    """Digest of the names and contents of the project's files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def notebooks_key(root=ROOT):
    """Digest of what all executed MyST pages share, and of what any of them imports."""
    cells = "\n".join(
        cell
        for page in sorted((root / "docs").rglob("*.md"))
        if "_build" not in page.parts
        for cell in CELL.findall(page.read_text("utf-8"))
    )
    return environment_key(root) + digest_of_files(files_behind(cells, root), root)


def data_sources():
    """For each data set, where it would be read from now."""
    from bnref_gallery import datasets

    return [f"{name}={datasets.available(name)}" for name in datasets._registry.REGISTRY]


def page_key(script, shared, root=ROOT):
    """Digest of a gallery page: its script, what it imports and reads, and what all pages share."""
    text = script.read_text("utf-8")
    behind = digest_of_files(files_behind(text, root), root)
    digest = hashlib.sha256(f"{shared}{behind}{text}".encode())
    for name in sorted(set(re.findall(r"[\w-]+\.csv", text))):
        path = packages(root)["bnref_gallery"] / "recorded" / name
        digest.update(path.read_bytes() if path.exists() else b"missing")
    for table in defects_named(text, packages(root)["bnref_gallery"] / "defects.toml"):
        digest.update(repr(table).encode())
    return digest.hexdigest()


def defects_named(text, file):
    """The tables of the file of defects that a script has the names of, in quotes."""
    tables = tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
    return [(name, table) for name, table in tables.items() if f'"{name}"' in text]


def unmark_stale_pages(app):
    """Make sphinx-gallery run every page whose key changed, and forget pages that are gone."""
    conf = app.config.sphinx_gallery_conf
    if not conf["plot_gallery"]:
        return  # a build without execution shows what there is
    shared = environment_key()
    for source, target in zip(conf["examples_dirs"], conf["gallery_dirs"], strict=True):
        source, target = Path(app.srcdir, source).resolve(), Path(app.srcdir, target)
        remove_pages_without_script(source, target)
        for script in sorted(source.glob("plot_*.py")):
            key, mark = page_key(script, shared), target / f"{script.name}.key"
            if not mark.exists() or mark.read_text() != key:
                (target / f"{script.name}.md5").unlink(missing_ok=True)
                target.mkdir(parents=True, exist_ok=True)
                mark.write_text(key)


def remove_pages_without_script(source, target):
    """Delete what was generated from a script that was renamed or removed."""
    for copy in target.glob("plot_*.py"):
        if not (source / copy.name).exists():
            stem = copy.stem
            for path in [*target.glob(f"{stem}.*"), *target.glob(f"images/**/sphx_glr_{stem}_*")]:
                path.unlink()


def use_notebook_cache(app, config):
    """Give the executed MyST pages a cache for this environment; keep the latest few."""
    folder = ROOT / ".cache" / "notebooks"
    cache = folder / hashlib.sha256(notebooks_key().encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    os.utime(cache)
    config.nb_execution_cache_path = str(cache)
    others = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in others[:-KEPT_NOTEBOOK_CACHES]:
        shutil.rmtree(path)


def setup(app):
    """Connect before sphinx-gallery looks for pages to run, and before myst-nb reads its cache."""
    app.connect("config-inited", use_notebook_cache, priority=100)
    app.connect("builder-inited", unmark_stale_pages, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
