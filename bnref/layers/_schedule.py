"""A limit that rises with the training step, for batch renormalization."""

import math
from collections.abc import Iterable

import tensorflow as tf

from bnref._checks import is_number


class Schedule:
    """A value that rises in straight lines from point to point, as a function of the step.

    Parameters
    ----------
    points : float, or sequence of (step, value)
        Steps rising, values never falling; constant before the first and after the last.
    name : str
        What it is called in errors.
    least : float
        What no value may be below.

    Raises
    ------
    ValueError
        A point that is no pair of finite numbers, a value below `least`, steps that do not rise
        or values that fall.
    """

    def __init__(self, points, *, name, least):
        pairs = [(0.0, points)] if is_number(points) else _listed(points, name)
        numbers = [each for point in pairs for each in _pair(point, name)]
        steps, values = numbers[::2], numbers[1::2]
        if not values or min(values) < least:
            raise ValueError(f"{name} must be at least {least} everywhere; received {points!r}")
        if any(b <= a for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"{name} must have steps that rise; received {points!r}")
        if any(b < a for a, b in zip(values, values[1:], strict=False)):
            raise ValueError(f"{name} must never fall; received {points!r}")
        self.points = [list(point) for point in zip(steps, values, strict=True)]

    def __call__(self, step):
        """The value at a step, a tensor or a number, as a float32 tensor."""
        (_, value), *rest = self.points
        step, value = tf.cast(step, tf.float32), tf.constant(value, tf.float32)
        for (start, low), (end, high) in zip(self.points, rest, strict=False):
            passed = tf.clip_by_value((step - start) / (end - start), 0, 1)
            value += (high - low) * passed
        return value


def _listed(points, name):
    if isinstance(points, str) or not isinstance(points, Iterable):
        raise ValueError(f"{name} must be a number or pairs (step, value); received {points!r}")
    return list(points)


def _pair(point, name):
    try:
        pair = [float(each) for each in point if not isinstance(each, bool)]
    except (TypeError, ValueError):
        pair = []
    if len(pair) != 2 or not all(map(math.isfinite, pair)):
        raise ValueError(f"{name} must be a number or pairs (step, value); received {point!r}")
    return pair
