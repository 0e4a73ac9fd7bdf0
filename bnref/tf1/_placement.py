"""Where the variables and the towers of a graph are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import tensorflow as tf

from bnref._checks import whole_number
from bnref.tf1._servers import servers

v1 = tf.compat.v1
VARIABLES = ("apart", "with the first tower")
_SECONDS_A_RUN = 300  # a safety net: a session whose server has died would wait for ever


class Placement(NamedTuple):
    """The devices of a graph, and the session target that has them.

    Attributes
    ----------
    variables : str
        Device of the variables, and of the averaging of gradients.
    towers : tuple of str
        Device of each tower.
    target : str
        For ``tf.compat.v1.Session``; empty for this process.
    """

    variables: str
    towers: tuple[str, ...]
    target: str = ""


def shared_memory(towers: int, *, variables: str = "apart") -> Placement:
    """Place towers on logical CPU devices, among which tensors pass without a copy.

    Parameters
    ----------
    towers : int
        Their number, 1 or more.
    variables : {"apart", "with the first tower"}
        On a device of their own, or on the first tower's.

    Returns
    -------
    Placement

    Raises
    ------
    ValueError
        An argument is not one of those accepted.
    """
    _check(towers, variables)
    return _placement([f"/device:CPU:{number}" for number in range(towers + 1)], variables)


def separate_memory(towers: int, *, variables: str = "apart") -> Placement:
    """Place towers on devices with memory of their own, among which tensors are copied.

    They are GPUs where TensorFlow sees two or more, and at least one a tower; elsewhere servers,
    which TensorFlow starts in this process and keeps until it ends. TensorFlow listens on every
    interface then, and without any password: behind a firewall, or where the network is trusted.

    Parameters
    ----------
    towers : int
        Their number, 1 or more.
    variables : {"apart", "with the first tower"}
        On a device of their own, which beside GPUs is the CPU, or on the first tower's.

    Returns
    -------
    Placement

    Raises
    ------
    ValueError
        An argument is not one of those accepted.
    """
    _check(towers, variables)
    if len(tf.config.get_visible_devices("GPU")) >= max(2, towers):
        gpus = [f"/device:GPU:{number}" for number in range(towers)]
        return _placement(["/device:CPU:0", *gpus], variables)
    target, devices, _ = servers(towers + 1)
    return _placement(devices, variables, target)


@contextmanager
def session(placement: Placement) -> Iterator[tf.compat.v1.Session]:
    """Open a session for the default graph on the devices of a placement.

    Parameters
    ----------
    placement : Placement

    Yields
    ------
    tf.compat.v1.Session

    Raises
    ------
    ValueError
        If the placement names a device that there is not.
    """
    wanted = (placement.variables, *placement.towers)
    numbers = [int(name.rpartition(":")[2]) for name in wanted if ":CPU:" in name.upper()]
    cpus = 1 + max(numbers, default=0)
    options = v1.ConfigProto(
        device_count={"CPU": cpus},
        operation_timeout_in_ms=1000 * _SECONDS_A_RUN,
        # Only beside GPUs, for what they cannot do; elsewhere it would hide a wrong device.
        allow_soft_placement=any(":GPU:" in name.upper() for name in wanted),
        gpu_options=v1.GPUOptions(allow_growth=True),
        isolate_session_state=True,  # servers would hand on variables of the session before
    )
    there = _devices(placement.target, options)
    if missing := [name for name in wanted if _canonical(name) not in there]:
        raise ValueError(
            f"placement names devices that there are not: {', '.join(missing)}; "
            f"there are {', '.join(sorted(there))}"
        )
    with v1.Session(placement.target, config=options) as opened:
        yield opened


def _devices(target, options):
    # In a graph of its own: to ask a server's devices before anything has run draws a warning.
    with tf.Graph().as_default(), v1.Session(target, config=options) as asked:
        asked.run(tf.no_op())
        return {_canonical(device.name) for device in asked.list_devices()}


def _placement(devices, variables, target=""):
    apart, *towers = devices
    return Placement(apart if variables == VARIABLES[0] else towers[0], tuple(towers), target)


def _canonical(name):
    spec = v1.DeviceSpec.from_string(name)
    job = spec.job or "localhost"
    return f"/job:{job}/task:{spec.task or 0}/{spec.device_type}:{spec.device_index or 0}".lower()


def _check(towers, variables):
    whole_number("towers", towers)
    if variables not in VARIABLES:
        raise ValueError(f"variables must be one of {VARIABLES}; received {variables!r}")
