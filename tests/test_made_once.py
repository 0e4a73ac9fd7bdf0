"""What is kept for all that it is made of, and what is made in two processes."""

import os

import pytest
from made_once import FEW, made_once, side_by_side


def with_process(first, second):
    """What was given, and the process that it was given to."""
    return first, second, os.getpid()


def test_what_is_made_of_the_same_is_made_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return b"made"

    first = made_once(tmp_path / "kept", [b"a", b"b"], ".txt", make)
    assert made_once(tmp_path / "kept", [b"a", b"b"], ".txt", make) == first
    assert made_once(tmp_path / "kept", [b"ab"], ".txt", make) != first
    assert first.read_bytes() == b"made" and len(calls) == 2


def test_nothing_is_left_of_what_failed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        made_once(tmp_path, [b"a"], ".txt", lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count, processes", [(FEW, 1), (FEW + 10, 2)])
def test_results_are_in_order_wherever_they_are_made(count, processes):
    results = side_by_side(with_process, range(count), [str(each) for each in range(count)])
    assert [each[:2] for each in results] == [(each, str(each)) for each in range(count)]
    made_in = {each[2] for each in results}
    assert len(made_in) <= processes
    assert (os.getpid() in made_in) == (processes == 1)


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        side_by_side(with_process, [1, 2], ["a"])
