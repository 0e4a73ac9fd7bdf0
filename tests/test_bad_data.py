"""Tests of bnref.training where the data are bad: files, and workers that read something else."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from bad_data_worker import X, Y, network
from helpers import QUIET, result_in_new_process

from bnref import devices, training, workers

pytestmark = pytest.mark.slow
SCRIPT = str(Path(__file__).with_name("bad_data_worker.py"))
LIMIT = 180  # seconds, a safety net


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of the two workers was told."""
    folder = tmp_path_factory.mktemp("bad")
    workers.start(SCRIPT, 2, str(folder), timeout=LIMIT, environment=QUIET)
    return [json.loads((folder / f"{i}.json").read_text()) for i in range(2)]


@pytest.mark.parametrize("name", ["local", "local targets", "unseeded", "evaluated local"])
def test_batches_that_differ_between_workers_are_refused_on_all(told, name):
    for worker in told:
        assert "x must give the same global batches on every worker" in worker[name]
        assert "worker 1 of 2 received another first batch than worker 0" in worker[name]
        assert "give a function of the InputContext" in worker[name] and "a seed" in worker[name]


def test_batches_that_are_alike_are_trained_on(told):
    assert [worker["seeded"] for worker in told] == [4, 4]


@pytest.mark.parametrize("name", ["none on one", "turns out"])
def test_a_worker_without_a_batch_is_named_on_all(told, name):
    for worker in told:
        said = "x must hold at least one batch on every worker; received none on worker 1 of 2"
        assert worker[name] == said


def test_where_no_worker_has_a_batch_all_say_so(told):
    assert [each["none"] for each in told] == ["x must hold at least one batch; received none"] * 2


def test_a_worker_with_fewer_batches_begins_anew_in_training(told):
    assert [worker["fewer"] for worker in told] == [4, 4]


def test_a_worker_with_fewer_batches_ends_an_evaluation_when_the_others_do(told):
    """Every example counts once."""
    x, y = np.concatenate([X, X[:10]]), np.concatenate([Y, Y[:10]])
    wanted = training.evaluate(network(), x, y)
    for worker in told:
        np.testing.assert_allclose(worker["evaluated"], wanted, rtol=1e-5)
        assert worker["counted"] == pytest.approx(wanted[1])


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
