"""Runs a script that trains, within a limit of memory: ``python within_memory.py SCRIPT ...``.

The limit is what the process has when it begins to train, before any of the data is read, and
MEGABYTES more: for the compiled step, its threads, and what is held of the data at a time. Where it
is not enough the process ends.
"""

import os
import resource
import runpy
import sys
from pathlib import Path

from bnref import training

MEGABYTES = 250
STACK = 2 * 2**20  # of each thread, all of which counts as its process's own, used or not
whole = training.train


def bytes_of_its_own():
    """What the system counts towards ``RLIMIT_DATA``: all that the process alone may write to."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("VmData:"))
    return int(found.split()[1]) * 1024


def within_the_limit(*given, **options):
    limit = bytes_of_its_own() + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return whole(*given, **options)


def with_small_stacks():
    """Start this program again: the threads of a process have the size that held at its start."""
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, most))
    os.execv(sys.executable, [sys.executable, *sys.argv])


if __name__ == "__main__":
    if resource.getrlimit(resource.RLIMIT_STACK)[0] != STACK:
        with_small_stacks()
    training.train = within_the_limit
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
