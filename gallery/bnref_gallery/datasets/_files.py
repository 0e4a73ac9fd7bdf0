"""Where bytes come from: files with known digests, Keras's cache, and downloads into it."""

import contextlib
import hashlib
import logging
import os
import threading
from pathlib import Path

_CONNECT_SECONDS = 5
_STALL_SECONDS = 30
# Addresses that have failed once in this process, and are not tried again.
_failed: set[str] = set()


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
    try:
        import pooch  # only here: reading needs nothing of it

        downloader = _downloader()
        if not _reachable(file.address, downloader):
            raise OSError(f"no answer in {_CONNECT_SECONDS} s or less")
        # Under another name until it is verified, so that a kill leaves no half file to be found.
        pooch.retrieve(file.address, file.digest, path.name, path.parent, downloader=downloader)
    except (ImportError, OSError) as error:  # what requests raises is an OSError as well
        _failed.add(file.address)
        # Not the logger of `load`, whose every record has a data set.
        logging.getLogger("bnref.download").warning("%s not downloaded: %s", file.address, error)
        return False
    except ValueError as error:  # another digest
        raise ValueError(f"{error} Set BNREF_DOWNLOAD=0 to do without {file.address}") from error
    path.chmod(0o644)  # as pooch leaves it, the cache is its owner's alone
    return True


def _downloader():
    from pooch import HTTPDownloader

    return HTTPDownloader(progressbar=True, timeout=(_CONNECT_SECONDS, _STALL_SECONDS))


def _reachable(address, downloader):
    # A thread, because no timeout of requests covers the look-up of the host's name.
    answers = []

    def ask():
        with contextlib.suppress(OSError, ValueError):
            answers.append(downloader(address, None, None, check_only=True))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    return any(answers)
