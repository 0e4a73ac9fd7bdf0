"""Record which versions of Keras 3 and tf_keras show which defect of ``docs/upstream``.

``python gallery/results/run_upstream_versions.py`` installs the last release of each minor version
beside the installed TensorFlow, without its dependencies, and runs the program of each report with
it, in a process of its own; half an hour to an hour on two cores. Keras 3.0 needs a package more,
and is left out. A program that uses no Keras runs once, with the installed TensorFlow. Stopped and
started again, it goes on where it was; the versions stay in the folder for temporary files.
"""

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from bnref_gallery import records
from bnref_gallery import upstream_reports as reports
from bnref_gallery import upstream_rules as rules

KERAS = (
    "3.1.1", "3.2.1", "3.3.3", "3.4.1", "3.5.0", "3.6.0", "3.7.0", "3.8.0", "3.9.2", "3.10.0",
    "3.11.3", "3.12.4", "3.13.2", "3.14.1", "3.15.1",
)  # fmt: skip
TF_KERAS = ("2.16.0", "2.17.0", "2.18.0", "2.19.0", "2.20.1", "2.21.0")
VERSIONS = {"keras": KERAS, "tf_keras": TF_KERAS, "tensorflow": (metadata.version("tensorflow"),)}
KEY = ("package", "version", "report")
COLUMNS = (*KEY, "result", "words", "printed")
FOLDER = Path(tempfile.gettempdir()) / "bnref_upstream_versions"
LIMIT = 600  # seconds for one program; some take 30 on a busy machine


def runs():
    """All that is to be run, version by version."""
    return [
        dict(zip(KEY, (package, version, name), strict=True))
        for package, versions in VERSIONS.items()
        for version in versions
        for name in reports.paths()
        if package in reports.packages(name)
    ]


def installed(package, version):
    """The folder that has this version of the package, and no other package."""
    folder = FOLDER / f"{package}-{version}"
    if not (folder / package).exists():
        wanted = ["--no-deps", "--quiet", "--target", str(folder), f"{package}=={version}"]
        subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=True)
    (found,) = metadata.distributions(name=package, path=[str(folder)])
    if found.version != version:
        raise RuntimeError(f"{folder} has {package} {found.version}")
    return folder


def row(package, version, report):
    """The row of one run."""
    first = None if package == "tensorflow" else installed(package, version)
    program = reports.block(report, "python")
    if package == "tf_keras":
        program = reports.for_tf_keras(program)
    with tempfile.TemporaryDirectory() as folder:
        try:
            output = reports.printed(program, Path(folder), limit=LIMIT, first=first)
        except AssertionError as error:
            result, words, output = rules.FAILS, "", reason(str(error))
        except subprocess.TimeoutExpired:
            result, words, output = rules.FAILS, "", f"no end after {LIMIT} s"
        else:
            result, words = rules.judged(report, output)
    lines = " | ".join(line.strip() for line in output.strip().splitlines())
    return dict(zip(COLUMNS, (package, version, report, result, words, lines), strict=True))


def reason(errors):
    """The first line of the error that ended a program."""
    last = errors.rpartition("Traceback (most recent call last):\n")[2]
    return next(line for line in last.splitlines() if line.strip() and line[0] != " ")


def main():
    """Record what is not yet in the file."""
    record = records.Record(records.path_of("upstream_versions.csv"), key=KEY, columns=COLUMNS)
    for one in record.progress(runs()):
        record.add([row(**one)])


if __name__ == "__main__":
    main()
