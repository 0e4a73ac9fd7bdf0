"""Tests of bnref_gallery.image_files: what is written is read again, and never written over."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from bnref_gallery import image_files

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (7, 2, 3, 1), "uint8")
LABELS = np.array([3, 1, 4, 1, 5, 9, 2])


def data():
    """Five images to train on and two to test by, of values from 0 to 1."""
    images = (BYTES / 255).astype("float32")
    return SimpleNamespace(
        x_train=images[:5], y_train=LABELS[:5], x_test=images[5:], y_test=LABELS[5:]
    )


def read(path):
    """The bytes of images, and the labels."""
    records = [np.frombuffer(each.numpy(), "uint8") for each in tf.data.TFRecordDataset(str(path))]
    return [each[:-1] for each in records], [int(each[-1]) for each in records]


def test_each_image_is_in_one_file_with_its_label(tmp_path):
    folder = tmp_path / "a" / "records"
    image_files.write(folder, data(), files=2)
    names = ["test.tfrecord", "train-0.tfrecord", "train-1.tfrecord"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [path.name for path in folder.parent.iterdir()] == ["records"], "nothing besides"
    for name, chosen in zip(names, ([5, 6], [0, 2, 4], [1, 3]), strict=True):
        images, labels = read(folder / name)
        np.testing.assert_array_equal(images, BYTES[chosen].reshape(len(chosen), -1))
        np.testing.assert_array_equal(labels, LABELS[chosen])


@pytest.mark.parametrize("name", ["records", "records.part"])
def test_a_folder_that_is_there_is_not_written_to(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=name):
        image_files.write(tmp_path / "records", data())
    assert list((tmp_path / name).iterdir()) == []
