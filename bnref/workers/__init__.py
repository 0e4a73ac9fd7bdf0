"""Processes that train together: starting them on one machine, and waiting until all are there.

A worker knows the others from the environment variable ``TF_CONFIG``, as TensorFlow reads it::

    {"cluster": {"worker": ["host-a:12345", "host-b:12345"]},
     "task": {"type": "worker", "index": 0}}

On one machine ``python -m bnref.workers 2 train.py`` starts two processes of it; on several, run
``python -m bnref.workers --hosts host-a:12345,host-b:12345 --index 0 train.py`` on each with its
index. A host that is named more than once with the same port has several workers: the second takes
the next port, and so on. SIGTERM is passed on to the workers, which may write a checkpoint. Where a
scheduler sets ``TF_CONFIG`` itself, run the script alone.
"""

from bnref.workers._launcher import start
from bnref.workers._rendezvous import meet, task

__all__ = ["meet", "start", "task"]
