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

Without a scheduler ``python -m bnref.workers 2 train.py`` starts two processes on one machine; on
several, run ``python -m bnref.workers --hosts host-a:12345,host-b:12345 --index 0 train.py`` on
each with its index. A host that is named more than once with the same port has several workers: the
second takes the next port, and so on. SIGTERM is passed on to the workers, which may write a
checkpoint.
"""

from bnref.workers._launcher import start
from bnref.workers._rendezvous import meet, task

__all__ = ["meet", "start", "task"]
