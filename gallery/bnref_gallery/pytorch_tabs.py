"""The PyTorch code in the section Fix of gallery pages.

The build has no PyTorch, so this code stands in the comments of a page's script. The sweep that
runs it, the site, and the tests read it here: all speak of the same code.
"""

import hashlib
import re
from itertools import takewhile
from pathlib import Path

__all__ = ["codes", "digest", "pages"]

GALLERY = Path(__file__).resolve().parents[1]
LIBRARY = "PyTorch"
SIDES = ("Wrong", "Right")
HEADING = re.compile(r"^# (.+)\n# [-^]{3,}$", re.MULTILINE)
DIRECTIVE = "\n# .. code-block:: python\n#\n"
INDENTATION = "#    "  # of the code below the directive, in a comment


def pages() -> list[str]:
    """The pages with such code, each as ``pitfalls/plot_one_value_a_channel``."""
    return [
        path.relative_to(GALLERY).with_suffix("").as_posix()
        for path in sorted(GALLERY.glob("*/plot_*.py"))
        if any(each.endswith(f", {LIBRARY}") for each in HEADING.findall(path.read_text("utf-8")))
    ]


def codes(page: str) -> dict[str, str]:
    """The code of both sides of a page, under ``Wrong`` and ``Right``.

    Parameters
    ----------
    page : str
        As `pages` names it.

    Raises
    ------
    ValueError
        If a side has no heading, or no ``.. code-block:: python`` below it.
    """
    _, *parts = HEADING.split((GALLERY / f"{page}.py").read_text("utf-8"))
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    found = {side: _block(sections.get(f"{side}, {LIBRARY}", "")) for side in SIDES}
    for side, code in found.items():
        if not code:
            raise ValueError(
                f"{page} needs a heading '{side}, {LIBRARY}' with '.. code-block:: python' below it"
            )
    return found


def _block(section):
    """The code below the directive as Sphinx has it; "" where there is none."""
    below = section.partition(DIRECTIVE)[2].splitlines()
    lines = takewhile(lambda line: line == "#" or line.startswith(INDENTATION), below)
    code = ("" if line == "#" else line.removeprefix(INDENTATION) for line in lines)
    return "\n".join(code).strip("\n")


def digest(code: str) -> str:
    """A short digest of a side's code: that of the code that was run is in the record."""
    return hashlib.sha256(code.encode()).hexdigest()[:12]
