"""Training on one device, several devices of one process, or several workers, by one loop.

`strategy` says on what, `train` is the loop, `compiled_step` its step, `evaluate` the test by the
population that is saved, and `Checkpoints` what an interrupted run goes on from.
"""

from bnref.training.checkpoints import Checkpoints
from bnref.training.evaluating import agree, evaluate
from bnref.training.loop import train
from bnref.training.sharing import shuffled_batches
from bnref.training.step import compiled_step
from bnref.training.strategy import strategy

__all__ = [
    "Checkpoints",
    "agree",
    "compiled_step",
    "evaluate",
    "shuffled_batches",
    "strategy",
    "train",
]
