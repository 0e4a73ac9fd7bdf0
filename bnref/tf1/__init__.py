"""TensorFlow 1: the functions of the post "two towers", and the loop they ran in.

Everything here builds graphs on ``tf.compat.v1``, within `tensorflow_1`, and runs them in a
session on a `Placement`: towers with memory of their own or with shared memory.
"""

from bnref.tf1.conditions import tensorflow_1
from bnref.tf1.network import Classifier, convolutions
from bnref.tf1.placement import Placement, separate_memory, session, shared_memory
from bnref.tf1.posted import (
    METHODS,
    assigned_average_norm,
    collected_updates_norm,
    stored_moments_norm,
    unconditional_average_norm,
)
from bnref.tf1.servers import servers
from bnref.tf1.towers import average_gradients, on_towers, training_step

__all__ = [
    "Classifier",
    "METHODS",
    "Placement",
    "assigned_average_norm",
    "average_gradients",
    "collected_updates_norm",
    "convolutions",
    "on_towers",
    "separate_memory",
    "servers",
    "session",
    "shared_memory",
    "stored_moments_norm",
    "tensorflow_1",
    "training_step",
    "unconditional_average_norm",
]
