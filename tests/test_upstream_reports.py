"""Each report to a framework: its program runs alone, and prints what the report says it prints."""

import ast
import os
import re
import select
import signal
import subprocess
import sys

import pytest

from bnref_gallery import defects
from bnref_gallery.upstream_reports import (
    LIMIT,
    NAMES,
    block,
    for_tf_keras,
    packages,
    paths,
    printed,
)

REPORTS, DEFECTS = paths(), defects.known()
PARTS = ["Program", "It prints", "Expected", "Workaround", "Related"]

# Where tf_keras prints something else than Keras 3 does, and what.
OF_TF_KERAS = {
    "empty_replica_nan": {"[5.0, nan]": "[5.0, 5.0]", "[nan, nan]": "[1.0, 1.0]"},
    "exported_in_training_mode": {"served 0.00": "served 1.00"},
    "first_replica_saved": {"mean that is saved: 1.0": "mean that is saved: 6.0"},
    "fit_on_workers": {"ValueError: Attempt to convert a value (PerReplica:{": "fit works"},
    "mask_unsynchronizes": {"[0.0, 0.0]": "[-1.0, 1.0]", "[0.0, 10.0]": "[5.0, 5.0]"},
    "second_derivative": {},
    "training_leaks": {": 0.010": ": 0.000"},
    "training_overridden": {"0.01": "0.0"},
    "variance_cancels": {},
}

each_report = pytest.mark.parametrize("name", REPORTS)


def text(name):
    return REPORTS[name].read_text("utf-8")


def test_each_defect_has_a_report_and_each_report_a_defect():
    assert set(REPORTS) == set(DEFECTS)
    assert len(REPORTS) >= 10


@each_report
def test_the_program_prints_what_the_report_says_until_the_defect_is_gone(name, tmp_path):
    output = printed(block(name, "python"), tmp_path)
    if DEFECTS[name].is_fixed:
        assert output != block(name, "text")
    else:
        assert output == block(name, "text")


@pytest.mark.parametrize("name", OF_TF_KERAS)
def test_with_tf_keras_the_program_prints_what_the_report_says_of_it(name, tmp_path):
    program, expected = block(name, "python"), block(name, "text")
    for old, new in OF_TF_KERAS[name].items():
        assert old in expected
        expected = expected.replace(old, new)
    assert printed(for_tf_keras(program), tmp_path) == expected


def test_every_report_that_speaks_of_tf_keras_is_run_with_it():
    assert {name for name in REPORTS if "tf_keras" in packages(name)} == set(OF_TF_KERAS)


@each_report
def test_the_program_needs_the_framework_alone_and_only_what_it_makes_public(name):
    tree = ast.parse(block(name, "python"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported <= {"keras", "tensorflow", "numpy", *sys.stdlib_module_names}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not [each for each in used - {"__init__", "__name__"} if each.startswith("_")]
    assert "src" not in used


@each_report
def test_a_report_has_all_its_parts_and_the_versions_that_the_page_names(name):
    before, line, report = text(name).partition("\n---\n")
    assert line and before.startswith("# ")
    assert re.findall(r"^## (.*)$", report, re.M) == PARTS
    (versions,) = re.findall(r"^Versions: (.*)\.$", report, re.M)
    for package, number in DEFECTS[name].seen_on.items():
        assert f"{NAMES[package]} {number}" in versions
    assert "bnref" not in report


@each_report
def test_a_paragraph_is_one_line_because_github_keeps_the_breaks_within(name):
    prose = re.sub(r"^```.*?^```$", "\n", text(name), flags=re.M | re.S)
    paragraphs = [each.strip().splitlines() for each in prose.split("\n\n")]
    wrapped = [
        each for each in paragraphs if not all(re.match(r"\d\. |#", one) for one in each[1:])
    ]
    assert wrapped == []


@each_report
def test_the_name_of_a_thread_is_that_of_its_address(name):
    threads = re.findall(r"\[([\w.-]+/[\w.-]+)#(\d+)\]\((\S+?)\)", text(name))
    assert threads
    for repository, number, address in threads:
        assert re.fullmatch(rf"https://github\.com/{repository}/(issues|pull)/{number}", address), (
            address
        )


def test_a_program_that_leaves_a_process_behind_is_told_and_the_process_ended(tmp_path):
    os.mkfifo(tmp_path / "held")  # by the process, until it ends
    reader = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    program = """
import os, subprocess, sys
held = os.open("held", os.O_WRONLY)
wait = [sys.executable, "-c", "import signal; signal.pause()"]
subprocess.Popen(wait, pass_fds=[held], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""
    with pytest.raises(AssertionError, match="left processes behind"):
        printed(program, tmp_path)
    assert select.select([reader], [], [], LIMIT)[0], "still held"
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_program_that_hangs_is_ended(tmp_path, processes):
    with pytest.raises(subprocess.TimeoutExpired):
        printed("import signal\nsignal.pause()\n", tmp_path, limit=0.5)
    assert processes[-1].returncode == -signal.SIGKILL


def test_a_program_that_fails_shows_why(tmp_path):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        printed("1 / 0", tmp_path)
