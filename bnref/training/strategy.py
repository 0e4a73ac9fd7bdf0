"""On what to train: one device, several devices of this process, or several workers."""

import tensorflow as tf

from bnref import devices, workers
from bnref.training.sharing import check_whole

__all__ = ["strategy"]


def strategy(replicas=None, *, timeout=60.0):
    """Return TensorFlow's strategy for one device, several devices or several workers.

    Call it before anything else of TensorFlow, and build model and optimizer in its ``scope()``.

    Parameters
    ----------
    replicas : int, optional
        The number of devices of this process: GPUs if there are so many, else logical CPU devices
        (`bnref.devices.replicas`). All GPUs, or one CPU, unless given. Of several workers each uses
        all its GPUs, or one CPU.
    timeout : float
        Seconds to wait for the other workers.

    Returns
    -------
    tf.distribute.Strategy
        ``MultiWorkerMirroredStrategy`` if ``TF_CONFIG`` names other workers, which have all started
        then; TensorFlow's default strategy for one device; ``MirroredStrategy`` for several.

    Raises
    ------
    ValueError
        `replicas` below 1, or given where ``TF_CONFIG`` names other workers.
    OSError, TimeoutError
        As `bnref.workers.meet`.
    """
    if replicas is not None:
        check_whole(replicas=replicas)
    if len(workers.task().addresses) > 1:
        if replicas is not None:
            raise ValueError(
                "replicas must not be given to one of several workers, which uses all its GPUs, or "
                f"one CPU; received {replicas!r}"
            )
        workers.meet(timeout=timeout)
        how = tf.distribute.experimental.CommunicationImplementation
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=how.AUTO if devices.kind() == "GPU" else how.RING
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    if replicas is None:
        replicas = max(1, len(tf.config.get_visible_devices("GPU")))
    names = devices.replicas(replicas)
    if replicas == 1:
        return tf.distribute.get_strategy()
    # Without GPUs: two strategies of one process would mistake each other's collectives.
    through_one = None if names[0].startswith("GPU") else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(names, cross_device_ops=through_one)
