"""The layers of PyTorch: in this process, or under DistributedDataParallel in several, by gloo."""

import functools
import inspect
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bnref_gallery.conformance import torch_process
from bnref_gallery.conformance.asking import Implementation, Outcome, Step

__all__ = ["TorchLayer"]

SECONDS = 120  # no process of a step lives longer


class TorchLayer(Implementation):
    """A layer alone in a `Sequential`; what is saved is the first process's `state_dict`."""

    modules, distributions = ("torch",), ("torch",)
    epsilon, weighs_new = "eps", True
    switches = {
        "layer.eval()": "layer",
        "layer.eval() after every model.train()": "call",
    }

    def __init__(self, layer: str) -> None:
        self.layer = layer

    @functools.cached_property
    def synchronized(self):
        """Whether it can be asked on two replicas: it refuses tensors on CPUs there."""
        if self.layer != "SyncBatchNorm" or self.missing():
            return False
        try:
            return bool(self.run(Step([np.float32(np.eye(4).reshape(4, 1, 1, 4))] * 2)))
        except (TypeError, ValueError, RuntimeError):
            return False

    @functools.cached_property
    def note(self):
        """What was asked of one process says so, where several were refused."""
        alone = self.layer == "SyncBatchNorm" and not self.missing() and not self.synchronized
        return "one process: " if alone else ""

    def run(self, step: Step) -> Outcome:
        """Train, in as many processes as there are parts."""
        job = {**step._asdict(), "layer": self.layer, "options": self.options(step)}
        with tempfile.TemporaryDirectory() as folder:
            job["folder"] = folder
            found = [torch_process.step(job)] if len(step.parts) == 1 else in_processes(job)
        names = "y", "dx", "evaluated", "along"
        y, dx, evaluated, along = ([each[name] for each in found] for name in names)
        return Outcome(y, dx, found[0]["mean"], found[0]["variance"], evaluated, along)


def in_processes(job):
    """The results of all, or the first error; none of the processes is left running."""
    folder, count = Path(job["folder"]), len(job["parts"])
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, inspect.getfile(torch_process), folder, str(rank), str(count)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
    results = []
    for rank, text in enumerate(said):
        if not (path := folder / f"{rank}.pickle").exists():
            raise RuntimeError(f"process {rank} of {count} ended without a result: {text[-300:]}")
        results.append(pickle.loads(path.read_bytes()))
    if errors := [each for each in results if isinstance(each, Exception)]:
        raise errors[0]
    return results
