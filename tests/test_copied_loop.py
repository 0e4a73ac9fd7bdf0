"""The page of the training loop as readers use it: copied alone into an empty folder, and run."""

import functools
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slurm_cluster
from helpers import QUIET

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "gallery/multi_gpu/plot_one_loop_for_one_device_and_many.py"
COMMANDS = {
    "one device": ["train.py", "1", "run"],
    "two devices": ["train.py", "2", "run"],
    "two workers": ["-m", "bnref.workers", "2", "train.py", "0", "run"],
    "two nodes of Slurm": ["train.py", "0", "run"],
}
LIMIT = 300  # seconds, a safety net


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
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TF_CONFIG")}
    return {**kept, **QUIET}


def here(words, folder):
    """Run a command on this machine."""
    return subprocess.run(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=LIMIT, env=environment(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def history(request, tmp_path_factory):
    """Of a command's name, what it leaves in a folder of its own; each is run once."""

    @functools.cache
    def found(name):
        folder = tmp_path_factory.mktemp("empty")
        shutil.copy(SCRIPT, folder / "train.py")
        run = request.getfixturevalue("slurm") if "Slurm" in name else here
        done = run([sys.executable, *COMMANDS[name]], folder)
        assert done.returncode == 0, done.stdout
        assert sorted(path.name for path in (folder / "run").glob("*.index")) == [
            "step-100.index", "step-120.index"
        ]  # fmt: skip
        with np.load(folder / "run" / "history.npz") as saved:
            return dict(saved)

    return found


@pytest.mark.parametrize("one, other", list(itertools.combinations(COMMANDS, 2)))
def test_the_copied_script_has_one_curve_on_one_device_on_two_as_two_workers_and_under_slurm(
    history, one, other
):
    one, other = history(one), history(other)
    assert one.keys() == other.keys() == {"step", "loss", "test_loss", "accuracy"}
    np.testing.assert_array_equal(one["step"], np.arange(0, 121, 10))
    np.testing.assert_allclose(one["loss"], other["loss"], atol=1e-4)
    np.testing.assert_allclose(one["test_loss"], other["test_loss"], atol=1e-4)
    assert one["test_loss"][-1] < one["test_loss"][0] / 3, "it has learned"
