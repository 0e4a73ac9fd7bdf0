"""The timing of the performance pages, with a clock of the test's own."""

import numpy as np
import pytest

from bnref_gallery import timing


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a function says how long it takes."""

    class Clock:
        now = 0.0

        def costs(self, log, name, *seconds):
            durations = iter(seconds)

            def function(*args):
                log.append((name, *args))
                self.now += next(durations)
                return np.zeros(1)

            return function

    ours = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: ours.now)
    return ours


def test_medians_are_of_the_rounds_that_count_and_rounds_interleave(clock):
    log = []
    functions = {
        "a": clock.costs(log, "a", 100.0, 1.0, 9.0, 2.0),
        "b": clock.costs(log, "b", 100.0, 5.0, 3.0, 4.0),
    }
    found = timing.interleaved_medians(functions, "x", rounds=3, warm_up=1)
    assert found == {"a": 2.0, "b": 4.0}
    assert log == [("a", "x"), ("b", "x")] * 4


def test_the_time_ends_when_the_last_result_is_read(clock):
    class Lazy:
        """Is computed when it is read, as a tensor on another device is."""

        def __array__(self, dtype=None, copy=None):
            clock.now += 7.0
            return np.zeros(1)

    found = timing.interleaved_medians(
        {"one": Lazy, "several": lambda: (None, Lazy())}, rounds=1, warm_up=0
    )
    assert found == {"one": 7.0, "several": 7.0}


@pytest.mark.parametrize(
    "functions, options, message",
    [
        ({}, {}, "functions must hold at least one; received none"),
        ({"a": int}, {"rounds": 0}, "rounds must be at least 1 .* received 0 and 3"),
        ({"a": int}, {"warm_up": -1}, "warm_up 0; received 41 and -1"),
    ],
)
def test_bad_arguments_are_refused_by_name(functions, options, message):
    with pytest.raises(ValueError, match=message):
        timing.interleaved_medians(functions, **options)
