"""Timing in one process: what the pages under ``performance/`` measure with."""

import time
from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["interleaved_medians"]


def interleaved_medians(
    functions: Mapping[str, Callable], *args: object, rounds: int = 41, warm_up: int = 3
) -> dict[str, float]:
    """Median seconds of each function; each runs once a round, so a disturbance meets all alike.

    Parameters
    ----------
    functions : dict of callables
        Called with `args`; each returns a tensor or a sequence whose last element is one. That
        tensor is read, so that the time ends when the work does.
    rounds : int, ≥ 1
    warm_up : int, ≥ 0
        Rounds before those that count, in which functions are traced and caches filled.

    Returns
    -------
    dict of floats
        Seconds under the names of `functions`.

    Raises
    ------
    ValueError
        No function, fewer than one round, or a negative `warm_up`.
    """
    if not functions:
        raise ValueError("functions must hold at least one; received none")
    if rounds < 1 or warm_up < 0:
        raise ValueError(
            f"rounds must be at least 1 and warm_up 0; received {rounds!r} and {warm_up!r}"
        )
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(warm_up + rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            result = function(*args)
            np.asarray(result[-1] if isinstance(result, tuple | list) else result)
            seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values[warm_up:])) for name, values in seconds.items()}
