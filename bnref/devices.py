"""Devices for a page to run on: GPUs where there are some, logical CPU devices elsewhere.

A logical CPU device is a slice of the same processor that TensorFlow treats as a device of its
own. It makes nothing faster; it lets code for several replicas run, and be checked, anywhere.
"""

import tensorflow as tf

from bnref._checks import whole_number

__all__ = ["configure", "names"]

_DEFAULT_CPUS = 8


def configure(*, cpus: int = _DEFAULT_CPUS) -> None:
    """Split the processor into logical CPU devices, before TensorFlow's first operation.

    Calling it again is harmless: it does nothing where there are already `cpus` devices or more.

    Parameters
    ----------
    cpus : int
        The number of logical CPU devices wanted, 1 or more.

    Raises
    ------
    ValueError
        If `cpus` is no whole number, or less than 1.
    RuntimeError
        If TensorFlow has already started with fewer logical CPU devices.
    """
    whole_number("cpus", cpus)
    if _logical_cpus() >= cpus:
        return
    processor = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(cpus)]
    try:
        tf.config.set_logical_device_configuration(processor, parts)
    except RuntimeError as error:
        raise RuntimeError(
            f"cpus: {cpus} logical CPU devices were asked for, but TensorFlow has already started "
            f"with {_logical_cpus()} and cannot add more; call bnref.devices.configure(cpus={cpus})"
            " before the first TensorFlow operation"
        ) from error


def names(count: int) -> list[str]:
    """Names of so many TensorFlow devices, one a replica.

    They are GPUs where TensorFlow sees at least `count` of them, else logical CPU devices: one
    kind or the other, because replicas of mixed kinds wait for the slowest. Logical CPU devices
    are configured if there are too few, eight or `count` of them, whichever is more.

    Parameters
    ----------
    count : int
        The number of replicas, 1 or more.

    Returns
    -------
    list of str
        Such as ``["GPU:0", "GPU:1"]`` or ``["CPU:0"]``, accepted by ``tf.device`` and by
        ``tf.distribute.MirroredStrategy``.

    Raises
    ------
    ValueError
        If `count` is no whole number, or less than 1.
    RuntimeError
        If TensorFlow has already started with fewer devices; see `configure`.
    """
    whole_number("count", count)
    if len(tf.config.get_visible_devices("GPU")) >= count:
        return [f"GPU:{index}" for index in range(count)]
    # A process that has started with `count` CPUs, but with fewer than eight, has enough.
    if _logical_cpus() < count:
        configure(cpus=max(count, _DEFAULT_CPUS))
    return [f"CPU:{index}" for index in range(count)]


def _logical_cpus():
    # Read from the configuration: listing logical devices would start TensorFlow, and fix them.
    processor = tf.config.list_physical_devices("CPU")[0]
    return len(tf.config.get_logical_device_configuration(processor) or [processor])
