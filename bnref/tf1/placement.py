"""Where the variables and the towers of a graph are."""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import NamedTuple

import tensorflow as tf

from bnref.tf1.servers import servers

__all__ = ["Placement", "separate_memory", "session", "shared_memory"]

v1 = tf.compat.v1
VARIABLES = ("apart", "with the first tower")
_SECONDS_A_RUN = 300  # a safety net: a session whose server has died would wait for ever


class Placement(NamedTuple):
    """The devices of a graph, and the session target that has them.

    ``with`` accepts it, and does nothing, so that `shared_memory` can stand where
    `separate_memory` does.

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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing was started, so nothing is stopped."""


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
    """
    _check(towers, variables)
    return _placement([f"/device:CPU:{number}" for number in range(towers + 1)], variables)


@contextmanager
def separate_memory(towers: int, *, variables: str = "apart", ports: Sequence[int] | None = None):
    """Place towers on devices with memory of their own, among which tensors are copied.

    They are GPUs where TensorFlow sees two or more, and at least one a tower; elsewhere `servers`
    on this machine, which run until the block ends.

    Parameters
    ----------
    towers : int
        Their number, 1 or more.
    variables : {"apart", "with the first tower"}
        On a device of their own, which beside GPUs is the CPU, or on the first tower's.
    ports : sequence of int, optional
        Of the servers, ``towers + 1`` of them; free ones unless given.

    Yields
    ------
    Placement

    Raises
    ------
    ValueError, OSError, RuntimeError
        As `servers`, and if an argument is not one of those accepted.
    """
    _check(towers, variables)
    if len(tf.config.get_visible_devices("GPU")) >= max(2, towers):
        yield _placement(["/device:CPU:0", *(f"/device:GPU:{n}" for n in range(towers))], variables)
        return
    with servers(towers + 1, ports=ports) as (target, devices):
        yield _placement(devices, variables, target)


@contextmanager
def session(placement: Placement):
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
    if isinstance(towers, bool) or not isinstance(towers, int) or towers < 1:
        raise ValueError(f"towers must be an integer, 1 or more; received {towers!r}")
    if variables not in VARIABLES:
        raise ValueError(f"variables must be one of {VARIABLES}; received {variables!r}")
