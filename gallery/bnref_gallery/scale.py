"""The machine that a page runs on, and the size of its experiments.

The environment variable ``BNREF_SCALE`` is ``quick`` or ``full``, the size of the experiments; see
`scale`.
"""

import os
import platform
from collections import Counter
from typing import TypeVar

import tensorflow as tf

from bnref import devices

__all__ = ["at_scale", "cores", "describe", "scale"]

T = TypeVar("T")


def describe() -> str:
    """Describe what TensorFlow can run on, in one line and without starting TensorFlow.

    Returns
    -------
    str
        Such as ``"8 logical CPU devices on 2 cores, x86_64"``, after the names of the GPUs
        where there are some: replicas are CPUs even there if more are asked for than GPUs.
    """
    # Read from the configuration: listing logical devices would start TensorFlow, and fix them.
    processor = tf.config.list_physical_devices("CPU")[0]
    cpus = len(tf.config.get_logical_device_configuration(processor) or [processor])
    processor = (
        f"{cpus} logical CPU device{'s' if cpus > 1 else ''} on {cores()} "
        f"core{'s' if cores() > 1 else ''}, {platform.machine()}"
    )
    names = Counter(
        tf.config.experimental.get_device_details(gpu).get("device_name", "a GPU without a name")
        for gpu in tf.config.get_visible_devices("GPU")
    )
    gpus = [name if number == 1 else f"{number} x {name}" for name, number in names.items()]
    return "; ".join([*gpus, processor])


def cores() -> int:
    """Return how many processor cores this process may use; a container can allow fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def scale() -> str:
    """Return the size of the experiments, ``"quick"`` or ``"full"``.

    The environment variable BNREF_SCALE decides. Where it is unset or empty, the scale is full
    where TensorFlow sees a GPU and quick elsewhere.

    Raises
    ------
    ValueError
        If BNREF_SCALE is anything else.
    """
    wanted = os.environ.get("BNREF_SCALE")
    if not wanted:
        return "full" if devices.names(1) == ["GPU:0"] else "quick"
    if wanted not in ("quick", "full"):
        raise ValueError(f"BNREF_SCALE is {wanted!r}; accepted are 'quick' and 'full', or unset")
    return wanted


def at_scale(*, quick: T, full: T) -> T:
    """Return the one of the two values that belongs to the present `scale`.

    Examples
    --------
    >>> seeds = range(at_scale(quick=3, full=10))
    """
    return {"quick": quick, "full": full}[scale()]
