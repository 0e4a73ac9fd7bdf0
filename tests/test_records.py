"""Tests of bnref_gallery.records."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import in_new_process

from bnref_gallery import records, scale
from bnref_gallery.records import Record, provenance_line, read

RECORDED = Path(__file__).resolve().parents[1] / "gallery" / "bnref_gallery" / "recorded"
KEY, COLUMNS = ("norm", "seed"), ("norm", "seed", "step", "loss")


def rows_of(norm, seed, losses=(2.5, 1.25)):
    return [
        {"norm": norm, "seed": seed, "step": step, "loss": loss} for step, loss in enumerate(losses)
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "sweep.csv"


@pytest.fixture
def record(path):
    return Record(path, key=KEY, columns=COLUMNS)


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Pretend to be a script that lies in a git repository of its own, committed."""
    script = tmp_path / "repository" / "gallery" / "run_it.py"
    script.parent.mkdir(parents=True)
    script.write_text("1\n")
    git(script.parent, "init", "-q", "..")
    git(script.parent, "add", ".")
    git(script.parent, "commit", "-q", "-m", "first")
    monkeypatch.setattr(sys, "argv", [str(script), "--seeds", "3 4"])
    return script


def test_what_is_added_is_read_back_in_order(record, path):
    record.add(rows_of("batch", 3))
    record.add(rows_of("ghost, of 8", 4, losses=(0.1 + 0.2,)))
    _, columns = read(path)
    assert list(columns) == list(COLUMNS)
    assert columns["norm"].tolist() == ["batch", "batch", "ghost, of 8"]
    numbers = {"seed": [3, 3, 4], "step": [0, 1, 0], "loss": [2.5, 1.25, 0.1 + 0.2]}
    for name, expected in numbers.items():
        assert columns[name].dtype == np.float64
        np.testing.assert_array_equal(columns[name], expected)


def test_numbers_that_are_not_finite_survive(record, path):
    losses = [float("nan"), np.float32("inf"), -float("inf"), np.float32(0.1), np.array(7)]
    record.add(rows_of("batch", 0, losses))
    np.testing.assert_array_equal(
        read(path)[1]["loss"], [np.nan, np.inf, -np.inf, float(np.float32(0.1)), 7.0]
    )


def test_a_column_with_one_label_is_a_column_of_strings(record, path):
    record.add(rows_of("batch", 0, [1, "none", "1_000", True]))
    assert read(path)[1]["loss"].tolist() == ["1", "none", "1_000", "True"]


def test_a_label_with_an_underscore_is_no_number(record, path):
    record.add(rows_of("batch", 0, ["1_000", "2_000"]))
    assert read(path)[1]["loss"].tolist() == ["1_000", "2_000"]


def test_a_run_is_done_once_its_rows_are_added_whoever_added_them(record, path):
    record.add(rows_of("batch", 3))
    again = Record(path, key=KEY, columns=COLUMNS)
    assert record.done(norm="batch", seed=3) and again.done(norm="batch", seed=np.int64(3))
    assert again.done(norm="batch", seed=3.0)
    assert not again.done(norm="batch", seed=4) and not again.done(norm="ghost", seed=3)


def test_missing_keeps_the_order_and_gives_each_run_once(record):
    record.add(rows_of("batch", 3))
    runs = [{"seed": seed, "norm": "batch"} for seed in (5, 3, 4, 5)]
    assert record.missing(runs) == [runs[0], runs[2]]


def test_a_diverged_key_is_found_again(path):
    record = Record(path, key=("rate",), columns=("rate", "loss"))
    record.add([{"rate": float("nan"), "loss": 1}])
    assert record.done(rate=np.float64("nan")) and not record.done(rate=float("inf"))


def test_two_records_of_one_file_lose_no_rows(record, path):
    other = Record(path, key=KEY, columns=COLUMNS)
    record.add(rows_of("batch", 0))
    other.add(rows_of("batch", 1))
    assert read(path)[1]["seed"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_kill_while_writing_leaves_the_file_as_it_was(record, path, monkeypatch, stage):
    record.add(rows_of("batch", 0))
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr({"fsync": os, "replace": Path}[stage], stage, killed)
    with pytest.raises(KeyboardInterrupt):
        record.add(rows_of("batch", 1))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["sweep.csv"]


def test_a_file_that_exists_is_replaced_and_never_rewritten_in_place(record, path):
    record.add(rows_of("batch", 0))
    with path.open() as reader:  # keeps the file it opened, whole
        record.add(rows_of("batch", 1))
        assert reader.read().count("batch") == 2
    assert path.read_text().count("batch") == 4


@pytest.mark.parametrize(
    "change, message",
    [
        ({"loss": None}, r"rows\[1\] lacks \['loss'\] and has unknown \[\]"),
        ({"lost": 1}, r"rows\[1\] lacks \[\] and has unknown \['lost'\]"),
        ({"norm": "two\nlines"}, "column 'norm' accepts strings of one line"),
        ({"seed": 9}, r"one run of \('norm', 'seed'\); received 2 rows of 2 runs"),
    ],
)
def test_a_wrong_row_is_refused_by_name_before_anything_is_written(record, path, change, message):
    rows = rows_of("batch", 0)
    rows[1] = {name: v for name, v in {**rows[1], **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        record.add(rows)
    assert not path.exists()


@pytest.mark.parametrize("value", [None, [1.0], 1j])
def test_a_value_that_is_neither_number_nor_string_is_refused_by_column(record, path, value):
    with pytest.raises(TypeError, match="column 'loss' accepts a number or a string; received"):
        record.add(rows_of("batch", 0, [1.0, value]))
    assert not path.exists()


def test_one_row_instead_of_a_list_is_refused(record):
    with pytest.raises(TypeError, match=r"rows\[0\] must be a dict"):
        record.add(rows_of("batch", 0)[0])


def test_a_run_without_rows_is_refused(record):
    with pytest.raises(ValueError, match="received 0 rows"):
        record.add([])


def test_a_run_that_is_there_already_is_refused(record, path):
    record.add(rows_of("batch", 0))
    with pytest.raises(ValueError, match=r"has already.*'batch', 0"):
        record.add(rows_of("batch", 0.0, losses=(9,)))
    assert "9" not in read(path)[1]["loss"]


@pytest.mark.parametrize("run", [{"norm": "a"}, {"norm": "a", "seed": 1, "step": 2}])
def test_a_key_of_other_names_is_refused(record, run):
    for ask in (lambda: record.done(**run), lambda: record.missing([run])):
        with pytest.raises(ValueError, match="the key of a run lacks .*accepted:.*norm.*seed"):
            ask()


def test_continuing_with_other_columns_is_refused_naming_both(record, path):
    record.add(rows_of("batch", 0))
    with pytest.raises(ValueError, match=r"'loss', 'time'\), but .*sweep.csv has .*'loss'\)"):
        Record(path, key=KEY, columns=(*COLUMNS, "time"))


@pytest.mark.parametrize(
    "names, argument",
    [
        ({"key": ("epoch",)}, "key"),
        ({"key": ()}, "key"),
        ({"columns": ("norm", "seed", "seed")}, "columns"),
        ({"columns": ("# norm", "norm", "seed")}, "columns"),
        ({"columns": ("norm", "seed", "a\nb")}, "columns"),
    ],
)
def test_impossible_columns_are_refused_by_name(path, names, argument):
    with pytest.raises(ValueError, match=f"^{argument} "):
        Record(path, **{"key": KEY, "columns": COLUMNS, **names})


def test_a_truncated_file_is_refused_by_its_line(record, path):
    record.add(rows_of("batch", 0))
    whole = path.read_text()
    last = whole.count("\n")
    for cut, text in [(1, "batch,0,1,1.25"), (3, "batch,0,1,1."), (6, "batch,0,1")]:
        path.write_text(whole[:-cut])
        for use in (read, lambda path: Record(path, key=KEY, columns=COLUMNS)):
            with pytest.raises(ValueError, match=f"sweep.csv, line {last} is incomplete: '{text}'"):
                use(path)
    path.write_text(whole.replace("batch,0,0,2.5", "batch,0,0"))
    with pytest.raises(ValueError, match=f"line {last - 1} is incomplete: 3 entries for 4 columns"):
        read(path)


@pytest.mark.parametrize(
    "text, message",
    [("", "no line of columns"), ("# date: 1\n", "no line of columns"), ("a,b\n", "has no rows")],
)
def test_an_empty_file_is_refused_by_name(path, text, message):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=f"sweep.csv .*{message}|sweep.csv {message}"):
        read(path)


def test_the_head_says_how_the_file_was_made(script, path, monkeypatch):
    monkeypatch.setattr(scale, "describe", lambda: "an abacus: 13 rods")
    record = Record(path, key=KEY, columns=COLUMNS, provenance={"data": "10\nimages", "git": 1})
    record.add(rows_of("batch", 0))
    head, _ = read(path)
    assert head["command"] == "python gallery/run_it.py --seeds '3 4'"
    assert head["commit"] == git(script.parent, "rev-parse", "--short", "HEAD")
    assert head["device"] == "an abacus: 13 rods"
    assert head["data"] == "10 images" and head["git"] == "1"
    assert head["numpy"] == np.__version__
    assert head["python"] == sys.version.split()[0]
    assert int(head["cores"]) == scale.cores()
    assert len(head["date"]) == len("2026-11-21T12:00:00Z") and head["date"].endswith("Z")


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # as where it is not installed
from bnref_gallery import records
record = records.Record("sweep.csv", key=("seed",), columns=("seed",), provenance={"torch": "2"})
record.add([{"seed": 1}])
head, columns = records.read("sweep.csv")
print(head["device"], head["cores"], head["torch"], columns["seed"], "bnref" in sys.modules)
"""


def test_a_sweep_of_another_framework_is_recorded_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = in_new_process("-c", WITHOUT_TENSORFLOW)
    assert printed == f"CPU, {platform.machine()} {os.cpu_count()} 2 [1.] False\n"


def test_a_changed_script_is_marked_but_the_recorded_file_is_not(script):
    path = script.parent / "sweep.csv"
    Record(path, key=KEY, columns=COLUMNS).add(rows_of("batch", 0))
    git(script.parent, "add", ".")
    git(script.parent, "commit", "-q", "-m", "second")
    commit = git(script.parent, "rev-parse", "--short", "HEAD")
    Record(path, key=KEY, columns=COLUMNS).add(rows_of("batch", 1))
    Record(path, key=KEY, columns=COLUMNS).add(rows_of("batch", 2))
    assert read(path)[0]["commit"].endswith(f"; {commit}")
    script.write_text("2\n")
    Record(path, key=KEY, columns=COLUMNS).add(rows_of("batch", 3))
    assert read(path)[0]["commit"].endswith(f"; {commit}; {commit}+")


def test_the_commit_is_unknown_outside_git(tmp_path, path, monkeypatch):
    script = tmp_path / "run_it.py"
    script.write_text("")
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    Record(path, key=KEY, columns=COLUMNS).add(rows_of("batch", 0))
    assert read(path)[0]["commit"] == "unknown"


def test_a_continued_file_keeps_every_value_of_its_provenance(path):
    for seed, note in enumerate(["a; b", "a; b", "c", "c"]):
        record = Record(path, key=KEY, columns=COLUMNS, provenance={"note": note, "one": 1})
        record.add(rows_of("batch", seed))
    head, _ = read(path)
    assert (head["note"], head["one"]) == ("a; b; c", "1")


@pytest.mark.parametrize("key", ["a: b", "a\nb", 3])
def test_a_provenance_key_that_would_spoil_the_head_is_refused(path, key):
    with pytest.raises(ValueError, match="provenance accepts keys of one line"):
        Record(path, key=KEY, columns=COLUMNS, provenance={key: 1})


PROVENANCE = {
    "command": "python gallery/results/run_decay.py", "commit": "abc1234", "cores": "2",
    "date": "2026-11-21T23:59:59Z", "device": "2 logical CPU devices on 2 cores, x86_64",
    "python": "3.11.9", "tensorflow": "2.21.0", "keras": "3.15.1", "numpy": "2.4.6",
    "bnref": "0.1.0",
}  # fmt: skip


def test_the_sentence_names_day_command_commit_device_and_versions():
    assert provenance_line(PROVENANCE) == (
        "Recorded 2026-11-21 by `python gallery/results/run_decay.py` at commit abc1234 on 2 "
        "logical CPU devices on 2 cores, x86_64, with Python 3.11.9, TensorFlow 2.21.0, "
        "Keras 3.15.1, NumPy 2.4.6, bnref 0.1.0."
    )


def test_the_sentence_tells_of_a_continued_file_and_of_changes():
    dates = "2026-11-21T01:00:00Z; 2026-11-21T02:00:00Z; 2026-11-22T01:00:00Z"
    line = provenance_line({**PROVENANCE, "date": dates, "commit": "abc1234; def5678+"})
    assert line.startswith("Recorded 2026-11-21 and 2026-11-22 by ")
    assert "at commit abc1234 and def5678 with uncommitted changes on" in line


def test_a_sentence_without_its_facts_is_refused_by_name():
    incomplete = {key: PROVENANCE[key] for key in PROVENANCE if key not in ("commit", "keras")}
    with pytest.raises(ValueError, match="provenance has no commit, keras; it has command, cores"):
        provenance_line(incomplete)


def test_progress_yields_the_missing_runs_with_a_line_each(record, capsys):
    runs = [{"norm": "batch", "seed": seed} for seed in (1, 2, 3)]
    record.add(rows_of("batch", 2))
    seen = []
    for run in record.progress(iter(runs)):
        seen.append(run)
        record.add(rows_of(**run))
    assert seen == [runs[0], runs[2]]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "sweep.csv: run 2 of 3: norm=batch, seed=1",
        "sweep.csv: run 3 of 3: norm=batch, seed=3",
    ]


def test_progress_is_a_bar_in_a_terminal(record, capsys, monkeypatch):
    record.add(rows_of("batch", 2))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    runs = [{"norm": "batch", "seed": seed} for seed in (1, 2, 3)]
    assert list(record.progress(runs)) == [runs[0], runs[2]]
    captured = capsys.readouterr()
    assert captured.out == "" and "run 2 of 3" not in captured.err
    assert "1/3" in captured.err and "3/3" in captured.err


def test_reading_a_file_that_is_not_there_names_it_and_those_beside_it(path):
    with pytest.raises(FileNotFoundError, match="sweep.csv; beside it there are none$"):
        records.read(path)
    path.parent.mkdir()
    for name in ("b.csv", "a.csv"):
        path.with_name(name).touch()
    with pytest.raises(FileNotFoundError, match="sweep.csv; beside it there are a.csv, b.csv$"):
        records.read(path)


@pytest.mark.parametrize("name", sorted(path.name for path in RECORDED.glob("*.csv")))
def test_a_recorded_sweep_is_found_by_its_name(name):
    path = records.path_of(name)
    assert path.samefile(RECORDED / name)
    assert {"date", "commit"} <= set(read(path)[0])


@pytest.mark.parametrize("name", ["elsewhere/sweep.csv", "sweep.txt", "sweep", ""])
def test_a_name_that_no_sweep_can_have_is_refused(name):
    with pytest.raises(ValueError, match="name must be a file name that ends with .csv; received"):
        records.path_of(name)
