"""Tests of bnref.training where a file of the data is spoilt."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import result_in_new_process

from bnref import devices, training

pytestmark = pytest.mark.slow
X = np.random.default_rng(0).standard_normal((60, 4)).astype("float32")


def network():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def files_of(folder, spoilt):
    """Three files of eight examples each, a bit of one of them turned."""
    for number in range(3):
        path = folder / f"{number}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for x in X[8 * number : 8 * number + 8]:
                writer.write(x.tobytes())
        if number == spoilt:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    return sorted(map(str, folder.glob("*")))


def example(record):
    x = tf.ensure_shape(tf.io.decode_raw(record, tf.float32), (4,))
    return x, tf.cast(x[0] > 0, tf.int64)


def of_a_spoilt_file(replicas, folder):
    """What is said; the second file is spoilt in its middle, at the thirteenth example."""
    devices.configure(cpus=2)
    with training.strategy(replicas).scope():
        model = network()
    data = tf.data.TFRecordDataset(files_of(Path(folder), 1)).map(example).batch(4)
    try:
        training.train(model, data, steps=6)
    except OSError as error:
        return str(error)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_spoilt_file_ends_training_with_the_number_of_the_batch(tmp_path, replicas):
    said = result_in_new_process(of_a_spoilt_file, replicas, str(tmp_path))
    assert re.match(r"batch 4 of x \(from 1\) cannot be read: corrupted record at \d+\. ", said)
    assert "read each alone" in said
