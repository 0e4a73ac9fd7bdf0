"""What a file of weights holds for a layer, of its own kind or of the one it came in place of."""

from collections.abc import Mapping
from typing import Any


def of_another_kind(store: Any, name: str) -> Mapping:
    """What a ``.weights.h5`` file holds for a layer of this name and of another class.

    Keras files the layers of a model by their class and a number, ``batch_normalization_3``, and
    writes the name of the layer beside the arrays. A layer that came in the place of one of another
    class finds nothing under its own, and finds by its name what was that layer's.

    Parameters
    ----------
    store : H5IOStore or the like
        Positioned by Keras at the layer's own place, where it holds nothing.
    name : str
        The layer's.

    Returns
    -------
    mapping of str to array
        Empty if there is none of the name, or if `store` is no such file.
    """
    file = getattr(store, "h5_file", None)
    # The place is Keras's own affair: an attribute of the entry in 3.8, of the file in 3.15.
    place = getattr(store, "_h5_entry_path", None) or getattr(store, "path", None)
    if file is None or not isinstance(place, str):
        return {}
    beside, _, own = place.rpartition("/")
    if beside not in file:
        return {}
    # Most often it has the same number there, and not every entry need be opened.
    same = [each for each in file[beside] if _number(each) == _number(own)]
    for keys in (same, file[beside]):
        entries = [file[beside][key].get("vars") for key in keys]
        found = [each for each in entries if each is not None and each.attrs.get("name") == name]
        if len(found) == 1:
            return found[0]
    return {}


def _number(key):
    """3 of batch_normalization_3, 0 of batch_normalization, which is the first."""
    last = key.rpartition("_")[2]
    return int(last) if last.isdecimal() else 0
