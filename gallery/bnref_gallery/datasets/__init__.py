"""Images and speech as arrays with a name and a source; the only module that reads data.

`load` takes the first of three sources that has the data: a folder of your own, Keras's cache
(downloading into it if allowed), and a default that needs neither. A default that is not the full
data set is a stand-in, and says so wherever it is printed. ``python -m bnref_gallery.datasets``
loads each data set, downloading what it can, and prints one line for each.

Every file is compared with its known digest before it is parsed, and nothing is ever unpickled.

To add a data set, add an entry to ``REGISTRY`` in ``registry.py``: for the file of each source its
name, its digest and a function from its bytes to what ``make`` takes, which for images are the
arrays ``(x_train, y_train, x_test, y_test)``, of type uint8; then the default with its stand-in
sentence, if it is one, and the terms of each.

Environment variables
---------------------
BNREF_DATA
    A folder of files such as ``mnist.npz``. Skipped where unset, empty, or without the file.
BNREF_DOWNLOAD
    ``0`` forbids downloads. They are allowed where it is unset, empty or ``1``.
KERAS_HOME
    The folder Keras keeps its cache in, as Keras itself reads it; ``~/.keras`` where unset.
"""

# Relative, here and in the whole folder: the site loads it without bnref, which takes seconds.
from ._dataset import Dataset
from ._loading import available, load
from ._speech import Frames, Speech

__all__ = ["Dataset", "Frames", "Speech", "available", "load"]
