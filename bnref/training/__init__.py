"""Training on one device, several devices of one process, or several workers, by one loop.

`strategy` says on what to train. A `Run` holds a model with its optimizer, its compiled step and
its evaluation by the population that is saved; `train` and `evaluate` do one of the two without
keeping it, on arrays or on a ``tf.data.Dataset``. `Checkpoints` is what an interrupted run goes on
from, and `on_replicas` is for experiments that are no training.
"""

from bnref.training._batches import shuffled_batches
from bnref.training._checkpoints import Checkpoints
from bnref.training._run import Run, evaluate, train
from bnref.training._strategy import on_replicas, strategy

__all__ = [
    "Checkpoints",
    "Run",
    "evaluate",
    "on_replicas",
    "shuffled_batches",
    "strategy",
    "train",
]
