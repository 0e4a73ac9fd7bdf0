"""Processes that train together: who the others are, a wait for them that ends, a local launcher.

A scheduler starts the same script once a worker, and says in the environment who the others are:

- Slurm in variables of its own: ``srun --nodes=2 python train.py`` and nothing else. Several tasks
  on a node take ports one after the other; let Slurm give each its GPUs (``--gpus-per-task``). The
  names of the nodes must be host names. At ``scancel``, before a requeue and at the time limit a
  task gets SIGTERM, and SIGKILL some time after it (KillWait, 30 seconds as a rule):
  ``--signal=TERM@120`` gives it more before the limit.
- Kubeflow's TFJob, and others, in the variable that TensorFlow reads, which counts before Slurm's::

    TF_CONFIG='{"cluster": {"worker": ["host-a:12345", "host-b:12345"]},
                "task": {"type": "worker", "index": 0}}'

- Ray in the same variable. Its trainer calls a function on every worker, and all of them again when
  one has died; ``tf.keras`` is Keras 2 there, so take ``keras``. The function runs in a thread,
  where SIGTERM leaves no checkpoint beyond those of ``every``::

    def train_on_worker(config):
        with training.strategy().scope():
            model = network()
        kept = training.Checkpoints(config["folder"])
        training.train(model, x, y, steps=1000, batch_size=64, checkpoints=kept)

    ray.train.tensorflow.TensorflowTrainer(
        train_on_worker,
        train_loop_config={"folder": "/shared/run"},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            failure_config=ray.train.FailureConfig(max_failures=3)
        ),
    ).fit()

Without a scheduler ``python -m bnref.workers 2 train.py`` starts two processes on one machine; on
several, run ``python -m bnref.workers --hosts host-a:12345,host-b:12345 --index 0 train.py`` on
each with its index. SIGTERM comes to the workers, which may write a checkpoint.
"""

from bnref.workers._launcher import start
from bnref.workers._rendezvous import meet, task

__all__ = ["meet", "start", "task"]
