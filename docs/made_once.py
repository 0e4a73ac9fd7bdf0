"""What takes long to make is kept in `.cache`, by a digest of all that it is made of."""

import hashlib
import multiprocessing
import uuid
from concurrent.futures import ProcessPoolExecutor

PROCESSES, FEW = 2, 8


def made_once(folder, given, suffix, make):
    """The path of what ``make()`` returns, as bytes, made once for all the bytes that are given."""
    digest = hashlib.sha256(b"\0".join(given)).hexdigest()
    kept = folder / f"{digest[:32]}{suffix}"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f"{uuid.uuid4().hex}.unfinished")  # two may make it at once
        unfinished.write_bytes(make())
        unfinished.replace(kept)
    return kept


def side_by_side(function, *columns):
    """What the function returns for each entry of the columns, made in two processes, in order.

    They start afresh instead of being copied: the build's own process has TensorFlow's threads.
    That takes longer than a few entries do, which are made here.
    """
    entries = list(zip(*columns, strict=True))
    if len(entries) <= FEW:
        return [function(*each) for each in entries]
    afresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, afresh) as pool:
        return list(pool.map(function, *zip(*entries, strict=True), chunksize=4))
