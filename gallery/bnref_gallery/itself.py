"""The file of a page that starts itself again, as another process; in a notebook, too."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["own_file", "said_by"]

# Of a notebook, as they are typed and as its kernel keeps them.
COMMANDS = "%", "!", "get_ipython()"


def own_file(function: Callable) -> str:
    """Path of the script in which a function was written.

    A notebook is no file that Python can run. There the cells that were run so far, that with the
    call included, are written to a temporary file, without commands such as ``%pip``.

    Parameters
    ----------
    function : callable
        Of the page's own.

    Returns
    -------
    str
        Of a file that is there. It runs the page from the start, so a page that calls this has to
        end before, where it is told so by its arguments.

    Raises
    ------
    ValueError
        The function was written neither in a file nor in a notebook.
    """
    path = Path(function.__code__.co_filename)
    if path.exists():
        return str(path)
    cells = function.__globals__.get("In")
    if not cells:
        raise ValueError(
            f"function must be written in a file or in a cell of a notebook; received "
            f"{function.__name__} of {path}"
        )
    lines = [line for cell in cells for line in cell.splitlines()]
    code = [line for line in lines if not line.startswith(COMMANDS)]
    written = Path(tempfile.mkdtemp()) / "cells.py"
    written.write_text("\n".join(code) + "\n", "utf-8")
    return str(written)


def said_by(
    *words: str, environments: Sequence[dict[str, str]] = ({},), limit: float = 300
) -> str:  # fmt: skip
    """What processes of this Python say, started together by the same words.

    Parameters
    ----------
    *words : str
        What stands behind ``python`` on the command line.
    environments : sequence of dict
        A process for each, with its variables besides those of this process.
    limit : float
        Seconds to wait for each.

    Returns
    -------
    str
        What each wrote to standard output, one after the other.

    Raises
    ------
    RuntimeError
        One of them failed; says with which status.
    subprocess.TimeoutExpired
        One of them had not ended in time. All are told to end, and waited for.
    """
    started, said = [], []
    try:
        for each in environments:
            command, variables = [sys.executable, *words], {**os.environ, **each}
            started.append(
                subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
            )
        for process in started:
            output, _ = process.communicate(timeout=limit)
            if process.returncode:
                raise RuntimeError(f"{words} ended with status {process.returncode}: {output}")
            said.append(output)
    finally:
        for process in started:
            process.terminate()
            with process:  # waits, and closes its pipe
                pass
    return "".join(said)
