"""What takes long to make is kept in `.cache`, by a digest of all that it is made of."""

import hashlib


def made_once(folder, given, suffix, make):
    """The path of what ``make()`` returns, as bytes, made once for all the bytes that are given."""
    digest = hashlib.sha256(b"\0".join(given)).hexdigest()
    kept = folder / f"{digest[:32]}{suffix}"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(".unfinished")
        unfinished.write_bytes(make())
        unfinished.replace(kept)
    return kept
