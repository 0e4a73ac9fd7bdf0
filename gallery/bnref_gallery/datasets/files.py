"""Where bytes come from: files with known digests, Keras's cache, and downloads into it."""

import contextlib
import hashlib
import http.client
import logging
import os
import socket
import sys
import threading
import urllib.request
from pathlib import Path

__all__ = []

_CONNECT_SECONDS = 5
_STALL_SECONDS = 30
_failed = set()  # addresses that have failed once in this process, and are not tried again


def verified_bytes(path, digest, advice="delete it, or point BNREF_DATA elsewhere"):
    """Read a file and return its bytes, if they have the digest ``<algorithm>:<hexadecimal>``."""
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


def downloads_allowed():
    """Return whether BNREF_DOWNLOAD allows downloads."""
    value = os.environ.get("BNREF_DOWNLOAD")
    if value not in (None, "", "0", "1"):
        raise ValueError(f"BNREF_DOWNLOAD is {value!r}; accepted are '0' and '1', or unset")
    return value != "0"


def keras_folder():
    """Return the folder of Keras's cache in which it keeps data sets."""
    # Keras's own rule, read at each call: Keras reads the variable once, when it is imported.
    home = Path("~").expanduser()
    base = (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"
    return Path(os.environ.get("KERAS_HOME") or base).expanduser() / "datasets"


def download(file, path):
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
        verified_bytes(part, file.digest, f"set BNREF_DOWNLOAD=0 to do without {file.address}")
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
