"""TensorFlow 1: the functions of the post "two towers", and the loop they ran in.

Everything here builds graphs on ``tf.compat.v1``, within `tensorflow_1`, and runs them in a
`session` on a placement: towers with memory of their own (`separate_memory`) or with shared memory.
"""

from bnref.tf1._conditions import tensorflow_1
from bnref.tf1._placement import separate_memory, session, shared_memory
from bnref.tf1._posted import (
    METHODS,
    assigned_average_norm,
    collected_updates_norm,
    stored_moments_norm,
    unconditional_average_norm,
)
from bnref.tf1._towers import on_towers, training_step

__all__ = [
    "METHODS",
    "assigned_average_norm",
    "collected_updates_norm",
    "on_towers",
    "separate_memory",
    "session",
    "shared_memory",
    "stored_moments_norm",
    "tensorflow_1",
    "training_step",
    "unconditional_average_norm",
]
