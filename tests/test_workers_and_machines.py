"""What workers on several machines share and do not: a folder, and the GPUs of one machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from helpers import QUIET

from bnref import workers
from bnref.workers import _launcher as launcher

pytestmark = pytest.mark.slow
WORKER = str(Path(__file__).with_name("worker.py"))
LIMIT = 180  # seconds, a safety net

# As on machines that do not see the same disk: each worker's folder ends with its number.
APART = f"""
import json, os, runpy, sys
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
sys.argv = [{WORKER!r}, sys.argv[1] + str(index), "none"]
runpy.run_path({WORKER!r}, run_name="__main__")
"""


def test_checkpoints_that_not_all_workers_see_are_refused_by_all(tmp_path, capfd):
    """The first worker would go on from step 30 and the other begin, with other batches."""
    script, folder = tmp_path / "apart.py", tmp_path / "folder-"
    script.write_text(APART)
    subprocess.run(
        [sys.executable, WORKER, f"{folder}0", "none"], check=True, capture_output=True,
        env={**os.environ, **QUIET}, timeout=LIMIT,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="worker [01] ended with status 1; worker [01] ended wi"):
        workers.start(script, 2, str(folder), timeout=LIMIT, environment=QUIET)
    said = "".join(capfd.readouterr())
    for index in range(2):
        message = f"checkpoints must be in a folder that all workers see; {folder}{index} has the"
        assert f"{message} last step 30, 0 on the replicas 0 to 1" in said
    assert not list(Path(f"{folder}1").glob("*"))


@pytest.mark.parametrize(
    "there, seen, count, parts",
    [
        (0, None, 2, [None, None]),
        (4, None, 2, ["0,1", "2,3"]),
        (3, None, 2, ["0", "1"]),
        (2, "5,7", 2, ["5", "7"]),
        (1, None, 2, ["-1", "-1"]),
    ],
)
def test_the_workers_of_one_machine_share_its_gpus(
    tmp_path, monkeypatch, capfd, there, seen, count, parts
):
    """There are none here: what each worker is given is printed by it."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * there)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    script = tmp_path / "prints.py"
    # In one piece: an unbuffered print is several, among which another worker's may come.
    script.write_text(
        "import os; os.write(1, f'given {os.environ.get(\"CUDA_VISIBLE_DEVICES\")}\\n'.encode())"
    )
    launcher.start(script, count, timeout=LIMIT)
    lines = sorted(line for line in capfd.readouterr().out.splitlines() if "given" in line)
    assert lines == sorted(f"given {part}" for part in parts)
