"""The form of a file: lines ``# key: value``, the names of the columns, the rows."""

import csv
import io
import os


def parse(path):
    """Return the provenance, the names of the columns and the rows, all as text."""
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    if lines[-1]:
        raise ValueError(f"{path}, line {len(lines)} is incomplete: {lines[-1]!r}")
    head = 0
    while lines[head].startswith("# "):
        head += 1
    provenance = dict(line[2:].partition(": ")[::2] for line in lines[:head])
    if not lines[head]:
        raise ValueError(f"{path} has no line of columns: it is empty, or ends after its head")
    # No cell has a line break, so every line of the file is a row of the table.
    names, *rows = (next(csv.reader([line]), []) for line in lines[head:-1])
    for number, row in enumerate(rows, start=head + 2):
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {number} is incomplete: {len(row)} entries for {len(names)} "
                f"columns, {lines[number - 1]!r}"
            )
    return provenance, tuple(names), rows


def write(path, provenance, columns, lines):
    """Replace the file by one with these lines, or leave it as it was if that fails."""
    text = io.StringIO()
    text.writelines(f"# {key}: {value}\n" for key, value in provenance.items())
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
