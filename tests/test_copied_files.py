"""The file that people copy, alone in an empty folder, started in each way that its page names.

Its records are larger than the memory that it is allowed.
"""

import functools
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import slurm_cluster
import tensorflow as tf
from helpers import QUIET_WITH_ALL, ROOT
from within_memory import MEGABYTES

from bnref_gallery import datasets

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "gallery/multi_gpu/plot_from_one_gpu_to_a_cluster.py"
LIMITED = [str(ROOT / "tests/within_memory.py"), "train.py"]
COMMANDS = {
    "one device": [*LIMITED, "1", "run"],
    "two devices": [*LIMITED, "2", "run"],
    "two workers": ["-m", "bnref.workers", "2", *LIMITED, "0", "run"],
    "two nodes of Slurm": [*LIMITED, "0", "run"],
}
LIMIT = 300  # seconds, a safety net
STEPS, BATCH, IMAGES = 64, 64, 2048
MORE = bytes(np.random.default_rng(0).integers(0, 256, 120_000, "uint8"))  # behind each image


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder of files with a record for each example of the 64 steps."""
    folder = tmp_path_factory.mktemp("files") / "records"
    folder.mkdir()
    data = datasets.load("mnist").take(train=IMAGES, test=500)
    write(folder / "test.tfrecord", data.x_test, data.y_test)
    for number in range(8):
        own = np.arange(number, STEPS * BATCH, 8) % IMAGES
        write(folder / f"train-{number}.tfrecord", data.x_train[own], data.y_train[own], MORE)
    return folder


def write(path, images, labels, more=b""):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            writer.write(np.uint8(255 * image).tobytes() + bytes([label]) + more)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Runs a command as a job of two nodes."""
    if why_not := slurm_cluster.why_not():
        pytest.skip(why_not)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm"), environment()) as cluster:
        yield lambda words, folder: cluster.run(
            "srun", "--nodes=2", f"--chdir={folder}", *words, timeout=LIMIT
        )


def environment():
    kept = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    return {**kept, **QUIET_WITH_ALL}


def here(words, folder):
    """Run a command on this machine."""
    return subprocess.run(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=LIMIT, env=environment(),
    )  # fmt: skip


def folder_of(tmp_path_factory, records, code):
    """A folder with the file, and the records beside that of the run."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "train.py").write_text(code, "utf-8")
    (folder / "records").symlink_to(records)
    return folder


@pytest.fixture(scope="module")
def history(request, tmp_path_factory, records):
    """Of a command's name, what it leaves in a folder of its own; each is run once."""

    @functools.cache
    def found(name):
        folder = folder_of(tmp_path_factory, records, SCRIPT.read_text("utf-8"))
        run = request.getfixturevalue("slurm") if "Slurm" in name else here
        done = run([sys.executable, *COMMANDS[name]], folder)
        assert done.returncode == 0, done.stdout
        assert sorted(path.name for path in (folder / "run").glob("*.index")) == [
            "step-32.index", "step-64.index"
        ]  # fmt: skip
        with np.load(folder / "run" / "history.npz") as saved:
            return dict(saved)

    return found


@pytest.mark.parametrize("one, other", list(itertools.combinations(COMMANDS, 2)))
def test_it_has_one_curve_on_one_device_on_two_as_two_workers_and_under_slurm(history, one, other):
    one, other = history(one), history(other)
    assert one.keys() == other.keys() == {"step", "loss", "test_loss", "accuracy"}
    np.testing.assert_array_equal(one["step"], np.arange(0, STEPS + 1, 16))
    np.testing.assert_allclose(one["loss"], other["loss"], atol=1e-4)
    np.testing.assert_allclose(one["test_loss"], other["test_loss"], atol=1e-4)
    assert one["test_loss"][-1] < one["test_loss"][0] / 3, "it has learned"


def test_the_files_are_larger_than_the_memory_and_cannot_be_kept_in_it(tmp_path_factory, records):
    """The same file, but for a ``cache``, ends; so the limit holds, and all files are read."""
    size = sum(path.stat().st_size for path in records.glob("train-*"))
    assert size > 1.5 * MEGABYTES * 2**20
    code = SCRIPT.read_text("utf-8")
    cached = code.replace("shuffled = records.shuffle(", "shuffled = records.cache().shuffle(")
    assert cached != code
    folder = folder_of(tmp_path_factory, records, cached)
    done = here([sys.executable, *COMMANDS["one device"]], folder)
    assert done.returncode < 0, "ended by a signal: TensorFlow does not live without memory"
    assert not (folder / "run" / "step-64.index").exists()
