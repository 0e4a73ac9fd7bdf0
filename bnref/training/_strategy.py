"""On what to train: one device, several devices of this process, or several workers."""

import os
from collections.abc import Callable

import tensorflow as tf

from bnref import devices, workers
from bnref._checks import whole_number


def strategy(replicas: int | None = None, *, timeout: float = 60.0) -> tf.distribute.Strategy:
    """Return TensorFlow's strategy for one device, several devices or several workers.

    Call it before anything else of TensorFlow, and build model and optimizer in its ``scope()``.

    Parameters
    ----------
    replicas : int, optional
        The number of devices of this process: GPUs if there are so many, else logical CPU devices
        (`bnref.devices.names`). All GPUs, or one CPU, unless given. Of several workers each uses
        all its GPUs, or one CPU.
    timeout : float
        Seconds to wait for the other workers.

    Returns
    -------
    tf.distribute.Strategy
        ``MultiWorkerMirroredStrategy`` if ``TF_CONFIG`` or the job step of Slurm names other
        workers (`bnref.workers.task`), which have all started then; TensorFlow's default strategy
        for one device; ``MirroredStrategy`` for several.

    Raises
    ------
    ValueError
        `replicas` below 1, or given where there are other workers; what
        `bnref.workers.task` refuses.
    OSError, TimeoutError
        As `bnref.workers.meet`.
    """
    if replicas is not None:
        whole_number("replicas", replicas)
    if len(workers.task().addresses) > 1:
        return _of_workers(replicas, timeout)
    if replicas is None:
        replicas = max(1, len(tf.config.get_visible_devices("GPU")))
    names = devices.names(replicas)
    if replicas == 1:
        return tf.distribute.get_strategy()
    # Without GPUs: two strategies of one process would mistake each other's collectives.
    through_one = None if names[0].startswith("GPU") else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(names, cross_device_ops=through_one)


def _of_workers(replicas, timeout):
    if replicas is not None:
        raise ValueError(
            "replicas must not be given to one of several workers, which uses all its GPUs, or "
            f"one CPU; received {replicas!r}"
        )
    workers.meet(timeout=timeout)
    how = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=how.AUTO if devices.names(1) == ["GPU:0"] else how.RING
    )
    return tf.distribute.MultiWorkerMirroredStrategy(_resolver(), communication_options=options)


def _resolver():
    """What tells TensorFlow who the workers are; None for ``TF_CONFIG``, which it reads itself."""
    if os.environ.get("TF_CONFIG"):
        return None
    own, gpus = workers.task(), tf.config.get_visible_devices("GPU")
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": own.addresses}), task_type="worker", task_id=own.index,
        num_accelerators={"GPU": len(gpus)}, rpc_layer="grpc",
    )  # fmt: skip


def on_replicas(strategy: tf.distribute.Strategy, function: Callable) -> Callable:
    """Make a function that every replica runs with arguments of its own.

    For experiments with one layer, a step written by hand, a look at what each replica sees; a
    model is trained by `Run`.

    Parameters
    ----------
    strategy : tf.distribute.Strategy
        In whose scope the variables of `function` were made.
    function : callable -> tensor, or tuple of tensors, or None
        Called on each replica; compiled at the first call. None may be among the tensors too.

    Returns
    -------
    callable
        Takes for each argument of `function` a column: an array of shape (R, ...), or a list of R
        arrays that may differ in size; entry i is for replica i. Returns what each replica
        returned, as a list of R results.

    Raises
    ------
    ValueError
        When called: a column that has not one entry a replica.
    """
    replicas, local = strategy.num_replicas_in_sync, strategy.experimental_local_results
    everywhere = tf.function(
        lambda *arguments: strategy.run(function, arguments), reduce_retracing=True
    )

    def run(*columns):
        if wrong := [len(each) for each in columns if len(each) != replicas]:
            raise ValueError(
                f"each column must have an entry a replica, {replicas} in all; received {wrong[0]}"
            )
        results = everywhere(*(_distributed(strategy, column) for column in columns))
        leaves = [
            [None] * replicas if each is None else local(each) for each in tf.nest.flatten(results)
        ]
        return [tf.nest.pack_sequence_as(results, own) for own in zip(*leaves, strict=True)]

    return run


def _distributed(strategy, column):
    """The entries of a column, each on the device of its replica."""
    if strategy.num_replicas_in_sync == 1:
        return tf.convert_to_tensor(column[0])
    return strategy.experimental_distribute_values_from_function(
        lambda replica: tf.convert_to_tensor(column[replica.replica_id_in_sync_group])
    )
