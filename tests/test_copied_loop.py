"""The page of the training loop as readers use it: copied alone into an empty folder, and run."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "gallery/multi_gpu/plot_one_loop_for_one_device_and_many.py"
COMMANDS = {
    "one device": ["train.py", "1", "run"],
    "two devices": ["train.py", "2", "run"],
    "two workers": ["-m", "bnref.workers", "2", "train.py", "0", "run"],
}


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """What each command leaves in a folder of its own; the limit is a safety net."""
    found = {}
    for name, words in COMMANDS.items():
        folder = tmp_path_factory.mktemp("empty")
        shutil.copy(SCRIPT, folder / "train.py")
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TF_CONFIG")}
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300,
            env={**environment, "CUDA_VISIBLE_DEVICES": "-1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        with np.load(folder / "run" / "history.npz") as saved:
            found[name] = dict(saved)
        assert sorted(path.name for path in (folder / "run").glob("*.index")) == [
            "step-100.index", "step-120.index"
        ]  # fmt: skip
    return found


@pytest.mark.parametrize("one, other", list(itertools.combinations(COMMANDS, 2)))
def test_the_copied_script_has_one_curve_on_one_device_on_two_and_as_two_workers(
    histories, one, other
):
    one, other = histories[one], histories[other]
    assert one.keys() == other.keys() == {"step", "loss", "test_loss", "accuracy"}
    np.testing.assert_array_equal(one["step"], np.arange(0, 121, 10))
    np.testing.assert_allclose(one["loss"], other["loss"], atol=1e-4)
    np.testing.assert_allclose(one["test_loss"], other["test_loss"], atol=1e-4)
    assert one["test_loss"][-1] < one["test_loss"][0] / 3, "it has learned"
