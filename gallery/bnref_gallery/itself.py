"""The file of a page that starts itself again, as another process; in a notebook, too."""

import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["own_file"]

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
