"""The programs of the reports in ``docs/upstream``, and what is said of them with other versions.

The sweep over versions and the tests use this, so that both run the same.
"""

import os
import re
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

from bnref_gallery.upstream_rules import ELSE, FAILS, GONE, SHOWS

__all__ = ["block", "end", "for_tf_keras", "packages", "paths", "printed", "since"]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "upstream"
LIMIT = 120  # seconds, for the day a program hangs
NAMES = {"keras": "Keras", "tf_keras": "tf_keras", "tensorflow": "TensorFlow"}
# What the line "Seen" of a report says before the versions with each result.
TOLD = {
    SHOWS: "Seen",
    GONE: "Not in",
    ELSE: "Something else is printed by",
    FAILS: "The program does not run in",
}


def paths() -> dict[str, Path]:
    """The reports by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.md"))}


def block(name: str, language: str) -> str:
    """The one block of code in this language, of a report."""
    text = paths()[name].read_text("utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return found


def for_tf_keras(program: str) -> str:
    """The program for Keras 2, whose weights are TensorFlow's variables themselves."""
    program = program.replace("import keras\n", "import tf_keras as keras\n")
    return program.replace(".value)", ")")


def packages(name: str) -> tuple[str, ...]:
    """The packages of which a report is tried version by version."""
    if "import keras\n" not in block(name, "python"):
        return ("tensorflow",)
    spoken_of = re.search(r"tf_keras [\d.]+ prints", paths()[name].read_text("utf-8"))
    return ("keras", "tf_keras") if spoken_of else ("keras",)


def printed(program: str, folder: Path, limit: float = LIMIT, first: Path | None = None) -> str:
    """What a program prints, in a group of processes of its own, of which none may be left.

    Where `first` is given, packages are looked for in that folder before all others. A program
    that fails is an AssertionError with what it wrote.
    """
    path = folder / "program.py"
    path.write_text(program, "utf-8")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_CONFIG", None)
    if first is not None:
        environment["PYTHONPATH"] = str(first)
    with subprocess.Popen(
        [sys.executable, path], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=limit)
            left = end(process)
        finally:
            end(process)
    if left:
        raise AssertionError("the program left processes behind")
    if process.returncode != 0:
        raise AssertionError(errors)
    return output


def end(process: subprocess.Popen) -> bool:
    """End whatever is alive of a program and of what it started; whether there was anything."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def since(found: list[dict]) -> str:
    """In which versions a report's defect is, and in which it is not, in one line.

    `found` are the rows of one report; the versions of a package stand together, in their order.
    The report has this line word for word.
    """
    lines: dict[str, list] = {result: [] for result in TOLD}
    for package, rows in groupby(found, key=lambda row: row["package"]):
        runs = [list(run) for _, run in groupby(rows, key=lambda r: (r["result"], r["words"]))]
        spans: dict[str, list] = {result: [] for result in TOLD}
        for run in runs:
            result = run[0]["result"]
            open_ended = result == SHOWS and run is runs[-1]
            spans[result].insert(0, _span(run, open_ended, run is runs[0]))
        for result, texts in spans.items():
            if texts:
                lines[result].append(f"{NAMES[package]} {', '.join(texts)}")
    return " ".join(f"{TOLD[each]}: {'; '.join(texts)}." for each, texts in lines.items() if texts)


def _span(run, open_ended, oldest):
    """The versions of a run of equal results, and the words for them."""
    first, last = run[0]["version"], run[-1]["version"]
    words = f" ({run[0]['words']})" if run[0]["words"] else ""
    if open_ended:
        return f"since {first}{' or earlier' if oldest else ''}{words}"
    before = "in " if run[0]["result"] == SHOWS else ""
    return f"{before}{first} to {last}{words}" if first != last else f"{before}{first}{words}"
