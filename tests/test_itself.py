"""Tests of bnref_gallery.itself: a page that starts itself, as a script and as a notebook."""

import subprocess
import sys

import pytest
from helpers import left

from bnref_gallery.itself import own_file, said_by

DOUBLE = "def double(x):\n    return 2 * x"
CELLS = [
    "get_ipython().run_line_magic('pip', 'install bnref')\n%pip list\nimport sys",
    DOUBLE,
    "if sys.argv[1:]:\n    print(double(int(sys.argv[1])))\n    sys.exit()",
]


def function_of(cells, filename="cell-2-of-a-kernel.py"):
    names = {"In": cells} if cells else {}
    exec(compile(DOUBLE, filename, "exec"), names)
    return names["double"]


def test_a_script_is_its_own_file():
    assert own_file(test_a_script_is_its_own_file) == __file__


def test_the_cells_of_a_notebook_become_a_program_that_runs():
    path = own_file(function_of(CELLS))
    done = subprocess.run([sys.executable, path, "21"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_what_is_in_no_file_and_no_notebook_is_refused():
    with pytest.raises(ValueError, match="must be written in a file or in a cell.*double"):
        own_file(function_of(None))


SAYS = "import os, sys; print(os.environ['NAME'], sys.argv[1])"


def test_what_several_processes_say_comes_in_their_order():
    environments = [{"NAME": "one"}, {"NAME": "other"}]
    assert said_by("-c", SAYS, "x", environments=environments) == "one x\nother x\n"


def test_a_process_that_fails_is_said_with_its_status_and_words():
    with pytest.raises(RuntimeError, match=r"ended with status 3: before"):
        said_by("-c", "print('before'); raise SystemExit(3)")


def test_processes_that_do_not_end_in_time_are_ended(tmp_path):
    environments = [{}, {}]
    with pytest.raises(subprocess.TimeoutExpired):
        said_by(
            "-c", "import signal; signal.pause()", str(tmp_path), environments=environments,
            limit=0.1,
        )  # fmt: skip
    assert left(tmp_path) == []
