"""Record what the doctor says, unasked, of the wrong and right models of the gallery's own pages.

``python gallery/results/run_doctor_on_pages.py``: a page that shows a cause ends by asking
`bnref.doctor.examine` for that cause alone, of its wrong model and of its right one, and fails
unless it fires on the first and is silent on the second. Here each such page is executed, in a
process of its own and in the quick scale, and every model that it asks about is examined for all
causes as well. A row a model: the cause that the page asked for, whether it was found (``sick``) or
not (``twin``), and which causes were named unasked, in their order. Stopped and started again, it
goes on where it was. About a quarter of an hour on two cores.
"""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from bnref_gallery import records

GALLERY = Path(__file__).resolve().parents[1]
COLUMNS = ("page", "number", "kind", "asked", "found", "layers", "batches")
ROWS = "rows: "


def pages():
    """The pages that ask for one cause, by their names without the ending."""
    found = sorted(GALLERY.glob("*/plot_*.py"))
    return [
        path.relative_to(GALLERY).with_suffix("").as_posix()
        for path in found
        if re.search(r"^    .*doctor\.examine\(", path.read_text("utf-8"), re.MULTILINE)
    ]


def execute(page):
    """Execute a page in this process, and print what was named of each of its models."""
    import matplotlib

    from bnref import doctor

    matplotlib.use("Agg")
    asked_of_one, rows = doctor.examine, []

    def examine(model, data, *more, only=None, **options):
        answer = asked_of_one(model, data, *more, only=only, **options)
        if only is not None:
            report = asked_of_one(model, data, *more, **options)
            rows.append(row_of(page, len(rows), list(only), answer, report))
        return answer

    doctor.examine = examine
    runpy.run_path(str(GALLERY / f"{page}.py"), run_name="__main__")
    print(ROWS + json.dumps(rows))


def row_of(page, number, only, answer, report):
    """What a page asked and was told of one model, beside what the doctor says unasked."""
    asked = [finding.cause for finding in answer.findings] or only
    return {
        "page": page,
        "number": number,
        "kind": "sick" if answer.findings else "twin",
        "asked": asked[0],
        "found": " ".join(finding.cause for finding in report.findings) or "none",
        "layers": len(report.norms),
        "batches": report.batches,
    }


def run(page):
    """Execute a page in a process of its own, whose devices it configures; its rows."""
    done = subprocess.run(
        [sys.executable, __file__, page], check=True, stdout=subprocess.PIPE, text=True,
        cwd=GALLERY.parent, env={**os.environ, "BNREF_SCALE": "quick"},
    )  # fmt: skip
    (line,) = [each for each in done.stdout.splitlines() if each.startswith(ROWS)]
    return json.loads(line.removeprefix(ROWS))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        execute(sys.argv[1])
        sys.exit()
    record = records.Record(
        records.path_of("doctor_on_pages.csv"), key=("page",), columns=COLUMNS,
        provenance={"data": "those of each page"},
    )  # fmt: skip
    for each in record.progress([{"page": page} for page in pages()]):
        record.add(run(**each))
