"""A job of Ray: ``python ray_job.py FOLDER``, two workers of which one kills itself the first time.

What each does is tests/worker.py; `bnref.workers` shows such a function as one would write it.
"""

import runpy
import sys
from pathlib import Path

import ray
from ray import train
from ray.train.tensorflow import TensorflowTrainer


def train_on_worker(config):
    folder, script = Path(config["folder"]), config["script"]
    fault = "none" if any(folder.glob("c/*.index")) else "dies 1"
    sys.argv = [script, str(folder / "c"), fault, str(folder / "result")]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    folder, script = sys.argv[1], Path(__file__).with_name("worker.py")
    ray.init(num_cpus=2, include_dashboard=False)
    trainer = TensorflowTrainer(
        train_on_worker,
        train_loop_config={"folder": folder, "script": str(script)},
        scaling_config=train.ScalingConfig(num_workers=2),
        run_config=train.RunConfig(
            storage_path=folder, failure_config=train.FailureConfig(max_failures=1)
        ),
    )
    trainer.fit()
    ray.shutdown()
