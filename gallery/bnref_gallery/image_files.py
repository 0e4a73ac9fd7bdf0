"""Images in TFRecord files, for the pages about training on files."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from bnref_gallery.datasets import Dataset

__all__ = ["write"]


def write(folder: Path, data: Dataset, *, files: int = 8) -> None:
    """Write the images of a data set to a folder of TFRecord files.

    A record is the image's values as bytes, 0 to 255, in order, and then its class number as one
    more byte.

    Parameters
    ----------
    folder : Path
        It is there at once with all its files, or not at all: for the training
        images ``train-0.tfrecord`` and so on, among which they are dealt out in turn, and
        ``test.tfrecord``.
    data : bnref_gallery.datasets.Dataset
        Images of values from 0 to 1, shape (N, H, W, C), and their class numbers, below 256.
    files : int, ≥ 1
        How many for training.

    Raises
    ------
    FileExistsError
        The folder exists, or one with ``.part`` behind its name, of a process that writes it or
        was killed while it did.
    """
    if folder.exists():
        raise FileExistsError(f"folder must not exist; there is {folder}")
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True)
    _write_file(part / "test.tfrecord", data.x_test, data.y_test)
    for number in range(files):
        own = slice(number, None, files)
        _write_file(part / f"train-{number}.tfrecord", data.x_train[own], data.y_train[own])
    part.rename(folder)


def _write_file(path, images, labels):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            values = np.rint(255 * image).astype(np.uint8)
            writer.write(values.tobytes() + bytes([label]))
