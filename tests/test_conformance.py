"""The conformance table: the record, and the probes on implementations with one fault each."""

import functools
import json
import re
import subprocess

import conformance as extension
import numpy as np
import pytest
import run_conformance
import tensorflow as tf
from helpers import result_in_new_process

from bnref import devices
from bnref_gallery import records
from bnref_gallery.conformance import (
    BEHAVIOURS,
    IMPLEMENTATIONS,
    asking,
    formula,
    replicas,
    torch_layers,
)

BFLOAT16 = tf.bfloat16.as_numpy_dtype
HERE = [name for name, one in IMPLEMENTATIONS.items() if not one.modules]


def measured_now(names):
    devices.configure()
    rows = [
        run_conformance.rows(name, behaviour)[0]
        for name in names
        for behaviour in run_conformance.BEHAVIOURS
    ]
    return json.loads(json.dumps(rows))  # as they are recorded


@pytest.fixture(scope="module")
def recorded():
    """The cells of the record, by (implementation, behaviour)."""
    return extension.cells()[1]


@pytest.fixture(scope="module")
def measured():
    """The cells of what this project depends on, measured now in a process of their own."""
    rows = result_in_new_process(measured_now, HERE)
    return {(row["implementation"], row["behaviour"]): row for row in rows}


def agree(now, then):
    """Whether two texts say the same; figures that rounding makes may be others, of like size."""
    figure = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?(?![\w.])")
    pairs = zip(figure.findall(now), figure.findall(then), strict=False)
    return figure.sub("#", now) == figure.sub("#", then) and all(like(*pair) for pair in pairs)


def like(a, b):
    """Whether figures agree: to 5 %, but as powers of ten and from 2 on by a factor of 30."""
    loose = "e" in a + b or min(float(a), float(b)) >= 2
    low, high = sorted((float(a), float(b)))
    return high <= (30 if loose else 1.05) * low or (loose and high < 1e-4)


@pytest.mark.parametrize(
    "now, then, same",
    [
        ("error 2e-07", "error 0", True),
        ("error 2e-07", "error 9e-05", True),
        ("error 2e-06", "error 2e-03", False),
        ("error 2e-04", "error 1e-03", True),
        ("error 30 times σ²", "error 20 times σ²", True),
        ("0.001, under the root", "0.0001, under the root", False),
        ("weighs the old; 0.99", "weighs the old; 0.9", False),
        ("weighs the old; 0.99", "weighs the new; 0.99", False),
        ("refused", "NaN", False),
    ],
)
def test_figures_of_rounding_may_differ_and_words_may_not(now, then, same):
    assert agree(now, then) == same


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_what_is_installed_with_bnref_still_does_what_is_recorded(behaviour, measured, recorded):
    for name in HERE:
        now, then = measured[name, behaviour], recorded[name, behaviour]
        assert now["verdict"] == then["verdict"], (now, then)
        assert agree(now["value"], then["value"]), (now, then)
        assert agree(now["details"], then["details"]), (now, then)


def test_every_implementation_has_a_cell_for_every_behaviour(recorded):
    assert list(recorded) == [(i, b) for i in IMPLEMENTATIONS for b in BEHAVIOURS]
    assert all(row["value"] and row["details"] and row["versions"] for row in recorded.values())


def test_what_the_page_says_of_whole_columns_is_on_record(recorded):
    def others(behaviour, verdict):
        return {i for i in IMPLEMENTATIONS if recorded[i, behaviour]["verdict"] != verdict}

    torch = {"torch.nn.BatchNorm2d", "torch.nn.SyncBatchNorm"}
    flax = {name for name in IMPLEMENTATIONS if name.startswith("flax")}
    for behaviour in ("epsilon", "float16", "bfloat16"):
        assert others(behaviour, "as the formula") == set()
    assert others("first step", "as the formula") == {"tf.compat.v1.nn.fused_batch_norm"}
    for name in IMPLEMENTATIONS:
        left = "90%" if name in torch else "99%"
        value = recorded[name, "first step"]["value"]
        assert value.endswith(f"from 0 and 1; {left} of it left") or value == "no memory"
    assert others("one value", "as the formula") == torch
    assert others("momentum", "as the formula") == {*torch, "tf.compat.v1.nn.fused_batch_norm"}
    for name in flax:
        for behaviour in ("large mean", "gradient"):
            cell = recorded[name, behaviour]
            error = re.search(r"(\S+) with use_fast_variance=False", cell["details"])
            assert float(error[1]) < 1e-4
            assert cell["verdict"] == "differs by design"
    assert {i for i in IMPLEMENTATIONS if i.startswith("bnref")} & others(
        "gradient", "as the formula"
    ) == set()
    # By TensorFlow's moments: Keras 3, and what of tf_keras is neither fused nor synchronized.
    assert others("second derivative", "as the formula") == {
        "keras.layers.BatchNormalization",
        "tf_keras.layers.BatchNormalization",
        "tf_keras.layers.BatchNormalization(fused=False)",
        "tf.layers.batch_normalization",
    }
    for name in ("tf_keras.layers.BatchNormalization", "tf.layers.batch_normalization"):
        double, single = recorded[name, "second derivative"]["value"].split("; ")
        assert double.startswith("float64 off by ") and "off" not in single


# An implementation in NumPy, right but for one fault.


class InNumPy(asking.Implementation):
    """By the paper in float64, but for the biased variance that is remembered."""

    distributions = ("numpy",)
    switches = {"trainable=False": "layer", "training=False": "call"}
    synchronized, kind, begins = True, np.float32, (0.0, 1.0)

    def run(self, step):
        """One step; each part is normalized by all of them, if synchronized."""
        options = {"momentum": 0.99, "epsilon": 1e-3, **self.options(step)}
        epsilon, weight = options["epsilon"], self.weight(options["momentum"])
        start = step.start or self.begins
        rows = [np.float64(x)[m] for x, m in zip(step.parts, self.masks(step), strict=True)]
        rows = [np.concatenate(rows)] * len(rows) if self.synchronized else rows
        moments = [start if self.freezes(step) else self.moments(each) for each in rows]
        y = [
            (np.float64(x) - mean) * self.factor(variance, epsilon)
            for x, (mean, variance) in zip(step.parts, moments, strict=True)
        ]
        kept = [
            [(1 - weight) * old + weight * new for old, new in zip(start, pair, strict=True)]
            for pair in map(self.remembered, moments, rows)
        ]
        dx = step.dy and np.split(
            self.gradient(np.concatenate(step.parts), np.concatenate(step.dy), epsilon), len(y)
        )
        evaluated = None
        if step.then is not None:
            evaluated = [formula.normalized(step.then, *each, epsilon) for each in kept]
        first = [np.asarray(each, self.kind if step.half else np.float32) for each in kept[0]]
        along = None
        if step.direction is not None:
            given = [np.concatenate(each) for each in (step.parts, step.weights, step.direction)]
            along = np.split(self.second_derivative(*given, epsilon), len(y))
        return asking.Outcome([self.put_out(each) for each in y], dx, *first, evaluated, along)

    def weight(self, momentum):
        """Of the new batch."""
        return 1 - momentum

    def masks(self, step):
        """True for what is there."""
        return step.masks or [np.ones(part.shape[:-1], bool) for part in step.parts]

    def freezes(self, step):
        """Whether the population normalizes."""
        return step.switch is not None

    def moments(self, rows):
        """Mean and variance of a batch; NaN for none."""
        mean = rows.sum(0) / len(rows)
        return mean, ((rows - mean) ** 2).sum(0) / len(rows)

    def remembered(self, moments, rows):
        """What of a batch's moments enters the memory."""
        return moments

    def factor(self, variance, epsilon):
        """What a centred value is multiplied by."""
        return 1 / np.sqrt(variance + epsilon)

    def gradient(self, x, dy, epsilon):
        """dx of the whole batch."""
        return formula.gradient(x, dy, epsilon)

    def second_derivative(self, x, weights, direction, epsilon):
        """The gradient of the whole batch, differentiated along the direction."""
        return formula.differentiated_along(x, weights, direction, epsilon)

    def put_out(self, y):
        """The outputs."""
        return y


def refusing(self, step):
    raise TypeError("asked for too much\nby far")


def refusing_float64(self, x, *given):
    if x.dtype == np.float64:
        raise LookupError("no gradient for float64")
    return formula.differentiated_along(x, *given)


def constant_mean(self, x, weights, direction, epsilon):
    """As where the mean inside the variance is not differentiated the second time."""
    axes = (0, 1, 2)
    mean, variance = formula.moments(x)
    y = formula.normalized(x, mean, variance, epsilon)
    by_variance = -(weights / np.cosh(y) ** 2 * y).sum(axes) / (2 * (variance + epsilon))
    lost = -2 / len(x) ** 2 * direction.sum(axes) * by_variance
    return formula.differentiated_along(x, weights, direction, epsilon) - lost


def unless_told(fault):
    """A step with the fault, or without it where the option says so."""

    def run(self, step):
        return made(fault if step.options.get("fast", True) else "none").run(step)

    return {"run": run, "cures": {"fast": False}}


def one_pass(self, rows):
    rows = np.float32(rows)
    return rows.mean(0), (rows**2).mean(0) - rows.mean(0) ** 2


def summed_up_in_bfloat16(self, rows):
    """Value after value, as a loop over a batch in 16 bits would."""
    rows = rows.astype(BFLOAT16)
    mean = np.float64(functools.reduce(np.add, rows)) / len(rows)
    squares = ((rows - mean) ** 2).astype(BFLOAT16)
    return mean, np.float64(functools.reduce(np.add, squares)) / len(rows)


def stretched(share):
    return lambda self, moments, rows: (moments[0], moments[1] * share(np.float64(len(rows))))


FAULTS = {
    "none": {},
    "alone": {"synchronized": False},
    "refuses": {"run": refusing},
    "weighs the new": {"weight": lambda self, momentum: momentum},
    "takes the first whole": {"weight": lambda self, momentum: 1.0},
    "starts from 0": {"begins": (0.0, 0.0)},
    "starts from 1 and 2": {"begins": (1.0, 2.0)},
    "remembers σ": {"remembered": lambda self, moments, rows: (moments[0], moments[1] ** 0.5)},
    "no memory": {"saves": False},
    "beside σ": {"factor": lambda self, variance, epsilon: 1 / (np.sqrt(variance) + epsilon)},
    "twice": {"factor": lambda self, v, epsilon: 1 / (np.sqrt(v + epsilon) + epsilon)},
    "corrects": {"remembered": stretched(lambda n: n / (n - 1))},
    "corrects, alone": {"remembered": stretched(lambda n: n / (n - 1)), "synchronized": False},
    "stretches": {"remembered": stretched(lambda n: 1.2)},
    "puts out NaN": {"put_out": lambda self, y: y * np.nan},
    "puts out 0": {"put_out": lambda self, y: y * 0},
    "one pass": {"moments": one_pass},
    "no mask": {"masks": refusing},
    "ignores the mask": {"masks": lambda self, s: InNumPy.masks(self, s._replace(masks=None))},
    "thaws": {"freezes": lambda self, step: step.switch == "training=False"},
    "never freezes": {"freezes": lambda self, step: False},
    "moves": {"remembered": lambda self, moments, rows: self.moments(rows)},
    "remembers in float16": {"kind": np.float16},
    "remembers in bfloat16": {"kind": BFLOAT16},
    "sums up in bfloat16": {"moments": summed_up_in_bfloat16},
    "constant mean": {"second_derivative": constant_mean},
    "refuses float64": {"second_derivative": refusing_float64},
    "1 in 10,000": {
        "second_derivative": lambda self, *given: 1.0001 * formula.differentiated_along(*given)
    },
    "constant σ": {
        "gradient": lambda self, x, dy, epsilon: (
            (dy - dy.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + epsilon)
        )
    },
}


FAULTS |= {f"{name}, by default": unless_told(name) for name in ("one pass", "constant σ")}
FAULTS["one pass, always"] = {**FAULTS["one pass"], "cures": {"fast": False}}


def made(fault="none"):
    return type("Faulty", (InNumPy,), FAULTS[fault])()


@pytest.mark.parametrize(
    "behaviour", [each for each in BEHAVIOURS if each != "variance remembered"]
)
def test_an_implementation_that_does_all_as_the_paper_is_found_to(behaviour):
    assert BEHAVIOURS[behaviour](made()).verdict == "as the formula"


@pytest.mark.parametrize(
    "behaviour, fault, verdict, value",
    [
        ("momentum", "weighs the new", "differs by design", "weighs the new; 0.99"),
        ("momentum", "alone", "as the formula", "weighs the old; 0.99"),
        ("first step", "none", "as the formula", "from 0 and 1; 99% of it left"),
        ("first step", "corrects", "as the formula", "from 0 and 1; 99% of it left"),
        ("first step", "starts from 0", "differs by design", "from 0 and 0; 99% of it left"),
        ("first step", "starts from 1 and 2", "differs by design", "from 1 and 2; 99% of it left"),
        (
            "first step",
            "takes the first whole",
            "differs by design",
            "the first batch, whole",
        ),
        ("first step", "weighs the new", "wrong", "the weight 0.75 for 0.25"),
        ("first step", "remembers σ", "wrong", None),
        ("first step", "stretches", "wrong", None),
        ("first step", "no memory", "not offered", "no memory"),
        ("epsilon", "beside σ", "differs by design", "0.001, beside σ"),
        ("epsilon", "twice", "wrong", "nan, neither"),
        ("variance remembered", "none", "differs by design", "biased"),
        ("variance remembered", "corrects", "as the formula", "times n/(n − 1)"),
        ("variance remembered", "stretches", "wrong", "neither"),
        ("one value", "refuses", "differs by design", "refused"),
        ("one value", "alone", "as the formula", "y = β, remembers 0"),
        ("one value", "puts out NaN", "wrong", "y = nan, remembers 4"),
        ("one value", "corrects, alone", "wrong", "y = 0, remembers nan"),
        ("large mean", "one pass", "wrong", None),
        ("large mean", "one pass, by default", "differs by design", None),
        ("large mean", "one pass, always", "wrong", None),
        ("large mean", "stretches", "wrong", "error 0.2"),
        ("mask", "no mask", "not offered", "no argument mask"),
        ("mask", "ignores the mask", "wrong", None),
        ("mask", "alone", "as the formula", "what is there"),
        ("frozen", "thaws", "differs by design", "training=False"),
        ("frozen", "never freezes", "wrong", "none"),
        ("frozen", "moves", "wrong", "none"),
        ("uneven replicas", "alone", "wrong", "each its own; one empty: NaN"),
        ("uneven replicas", "refuses", "not offered", "refused"),
        ("uneven replicas", "twice", "wrong", None),
        ("uneven replicas", "corrects", "as the formula", "as one batch"),
        ("uneven replicas", "stretches", "wrong", "memory off by 0.2"),
        ("saved", "alone", "wrong", "the first replica's; 1 of 2 evaluate by it"),
        ("saved", "corrects", "as the formula", "the global batch's"),
        ("saved", "stretches", "differs by design", "neither"),
        ("float16", "remembers in float16", "differs by design", None),
        ("float16", "puts out 0", "wrong", None),
        ("float16", "puts out NaN", "wrong", None),
        ("bfloat16", "remembers in bfloat16", "differs by design", None),
        ("bfloat16", "sums up in bfloat16", "wrong", None),
        ("bfloat16", "stretches", "wrong", None),
        ("bfloat16", "corrects", "as the formula", None),
        ("bfloat16", "refuses", "not offered", "refused"),
        ("gradient", "constant σ", "wrong", None),
        ("gradient", "constant σ, by default", "differs by design", None),
        ("gradient", "alone", "as the formula", None),
        ("second derivative", "constant mean", "wrong", "float64 off by 0.04; float32 off by 0.04"),
        ("second derivative", "1 in 10,000", "wrong", "float64 off by 1e-04; float32 1e-04"),
        ("second derivative", "refuses float64", "as the formula", None),
        ("second derivative", "refuses", "not offered", "refused"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # 0/0 is what is asked for
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_a_fault_is_found_by_the_probe_for_it(behaviour, fault, verdict, value):
    cell = BEHAVIOURS[behaviour](made(fault))
    assert cell.verdict == verdict, cell
    assert value in (None, cell.value), cell


def test_the_second_derivative_of_the_formula_is_that_of_plain_operations():
    x, weights, direction = np.random.default_rng(1).normal(1, [2, 1, 5], (3, 6, 1, 1, 3))

    def plain(x):  # nothing here stops a gradient, as TensorFlow's moments do
        mean = tf.reduce_mean(x, (0, 1, 2))
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), (0, 1, 2))
        return (x - mean) / tf.sqrt(variance + 1e-3)

    given = (tf.constant(each) for each in (x, weights, direction))
    _, along = replicas.differentiated_along(plain, *given)
    found = formula.differentiated_along(x, weights, direction, 1e-3)
    np.testing.assert_allclose(found, along, rtol=1e-7, atol=1e-7 * np.abs(along).max())


def test_an_error_is_told_in_one_line_and_not_taken_for_an_answer(monkeypatch):
    from bnref_gallery import conformance

    monkeypatch.setitem(conformance.IMPLEMENTATIONS, "numpy", made("refuses"))
    cell = conformance.measured("numpy", "gradient")
    assert cell == ("not offered", "refused", "TypeError: asked for too much by far")


# The program.


def test_a_row_whose_library_is_missing_is_left_out_by_name(monkeypatch, capsys):
    monkeypatch.setattr(
        asking.importlib.util, "find_spec", lambda name: None if name == "torch" else 1
    )
    names = ["torch.nn.BatchNorm2d", "bnref.BatchNorm", "flax.nnx.BatchNorm"]
    assert list(run_conformance.installed(names)) == names[1:]
    assert capsys.readouterr().err == "torch.nn.BatchNorm2d left out: torch is not installed\n"


@pytest.mark.parametrize(
    "argument, known", [("--implementation", "bnref.BatchNorm"), ("--behaviour", "large mean")]
)
def test_an_unknown_name_is_refused_with_those_that_are_known(argument, known, capsys):
    with pytest.raises(SystemExit):
        run_conformance.arguments([argument, "Batchnorm"])
    told = capsys.readouterr().err
    assert argument in told and "'Batchnorm'" in told and known in told


def test_one_cell_is_printed_and_not_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        run_conformance.devices, "configure", lambda: None
    )  # TensorFlow has started
    monkeypatch.setitem(run_conformance.IMPLEMENTATIONS, "numpy", made())
    arguments = [
        "--implementation",
        "numpy",
        "--behaviour",
        "mask",
        "--file",
        str(tmp_path / "a.csv"),
    ]
    run_conformance.main(run_conformance.arguments(arguments))
    said = capsys.readouterr().out
    assert (
        said.startswith("numpy | mask | as the formula | what is there | ")
        and said.count("\n") == 1
    )
    assert list(tmp_path.iterdir()) == []


def test_all_cells_are_recorded_and_none_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_conformance.devices, "configure", lambda: None)
    monkeypatch.setattr(run_conformance, "IMPLEMENTATIONS", {"numpy": made()})
    monkeypatch.setitem(IMPLEMENTATIONS, "numpy", made())
    asked = run_conformance.arguments(["--file", str(tmp_path / "a.csv")])
    run_conformance.main(asked)
    first = (tmp_path / "a.csv").read_text("utf-8")
    _, columns = records.read(tmp_path / "a.csv")
    assert list(columns["behaviour"]) == list(BEHAVIOURS)
    assert set(columns["versions"]) == {f"numpy {np.__version__}"}
    run_conformance.main(asked)
    assert (tmp_path / "a.csv").read_text("utf-8") == first


@pytest.mark.parametrize(
    "program, seconds, error",
    [
        ("import sys; sys.exit('no such interface')", 60, "process 0 of 2 ended without"),
        ("import os; os.read(os.pipe()[0], 1)", 1, "timed out"),  # waits for ever
        ("import os, pathlib, pickle, sys\n"
         "result = {} if sys.argv[2] == '0' else ValueError('not on a CPU')\n"
         "pathlib.Path(sys.argv[1], sys.argv[2] + '.pickle').write_bytes(pickle.dumps(result))",
         60, "not on a CPU"),
    ],
    ids=["ends", "waits", "refuses"],
)  # fmt: skip
def test_processes_that_fail_are_told_and_none_is_left(
    program, seconds, error, tmp_path, monkeypatch, processes
):
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(torch_layers.torch_process, "__file__", str(tmp_path / "program.py"))
    monkeypatch.setattr(torch_layers, "SECONDS", seconds)
    with pytest.raises((RuntimeError, ValueError, subprocess.TimeoutExpired), match=error):
        torch_layers.in_processes({"folder": str(tmp_path), "parts": [0, 0]})
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)
