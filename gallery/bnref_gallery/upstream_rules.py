"""Whether what a report's program printed shows the defect: one rule for each report.

A rule has the report's name. It gets what was printed, and returns whether that shows the defect,
and in a few words what it is that does; ValueError, where it is neither one nor the other. A figure
may differ in its last digits.
"""

import re

__all__ = ["ELSE", "FAILS", "GONE", "RESULTS", "RULES", "SHOWS", "judged"]

SHOWS, GONE, ELSE, FAILS = RESULTS = (
    "shows it",
    "does not",
    "prints something else",
    "does not run",
)


def judged(name: str, output: str) -> tuple[str, str]:
    """One of the first three of `RESULTS` for what a program printed, and a few words."""
    try:
        shows, words = RULES[name](output)
    except ValueError:
        return ELSE, ""
    return (SHOWS if shows else GONE), words


def _numbers(output, label):
    """The numbers of each line that begins with the label, line by line."""
    lines = [line.strip() for line in output.splitlines()]
    found = [line.removeprefix(label) for line in lines if line.startswith(label)]
    if not found:
        raise ValueError(f"no line begins with {label!r}")
    return [
        [float(each) for each in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?|\bnan\b", line)]
        for line in found
    ]


def _close(found, wanted):
    """Whether two lists of numbers are the same but for rounding."""
    return len(found) == len(wanted) and all(
        abs(a - b) <= 0.004 for a, b in zip(found, wanted, strict=True)
    )


def _one_of(found, wrong, right):
    """True for the wrong numbers, False for the right ones."""
    if _close(found, wrong):
        return True
    if _close(found, right):
        return False
    raise ValueError(f"neither {wrong} nor {right}: {found}")


def empty_replica_nan(output):
    """NaN in any replica's γ or moving mean."""
    (mean,), (gamma,) = _numbers(output, "moving mean on"), _numbers(output, "gamma on")
    bad = [sum(each != each for each in values) for values in (mean, gamma)]
    if not any(bad):
        return _one_of(mean + gamma, [], [5, 5, 1, 1]), ""
    whose = "γ of every replica" if bad[1] == len(gamma) else f"γ of {bad[1]} replica"
    return True, whose if bad[1] else "moving mean alone"


def exported_in_training_mode(output):
    """What is served is not what is predicted, for an example that is alone in its batch."""
    wrong = {}
    for name in ("Rescaling", "RandomFlip", "Resizing"):
        (predicted_and_served,) = _numbers(output, f"behind {name}:")
        wrong[name] = _one_of(predicted_and_served, [1, 0], [1, 1])
    if wrong.pop("Rescaling"):
        raise ValueError("it is wrong behind Rescaling too")
    behind = [name for name, each in wrong.items() if each]
    return bool(behind), f"behind {' and '.join(behind)}" if behind else ""


def first_replica_saved(output):
    """The mean that is saved is the first replica's 1, and not 6."""
    return _one_of(_numbers(output, "moving mean that is saved:")[0], [1], [6]), ""


def fit_on_workers(output):
    """The error of one of the report's two reductions, and not ``fit works``."""
    if output.startswith("ValueError: Attempt to convert a value (PerReplica:{"):
        return True, "first reduction"
    if output.startswith("ValueError: Invalid reduction dimension 0 for input with 0 dimensions"):
        return True, "second reduction"
    if output == "fit works\n":
        return False, ""
    raise ValueError("neither the errors nor success")


def mask_unsynchronizes(output):
    """Under a mask each replica puts out zeros, as normalized by itself."""
    without, masked = _numbers(output, "outputs on each replica:")
    if not _close(without, [-1, 1]):
        raise ValueError(f"not synchronized without a mask: {without}")
    _, (first, second) = _numbers(output, "moving mean on each replica:")
    shows = _one_of(masked, [0, 0], [-1, 1])
    return shows, "outputs alone" if shows and _close([first], [second]) else ""


def second_derivative(output):
    """The layer's derivative, differentiated, is not what its differences are."""
    twice = _numbers(output, "differentiated twice:")
    differences = _numbers(output, "differences of the first:")
    moments, layer = (not _close(a, b) for a, b in zip(twice, differences, strict=True))
    return layer, "" if moments == layer else "tf.nn.moments alone" if moments else "layer alone"


def training_leaks(output):
    """A moving mean moves in ``predict``."""
    moved = {}
    for name in ("Rescaling", "RandomFlip", "Resizing"):
        (mean,) = _numbers(output, f"moving mean after predict, behind {name}:")
        moved[name] = _one_of(mean, [0.01], [0])
    if moved.pop("Rescaling"):
        raise ValueError("it moves behind Rescaling too")
    behind = [name for name, each in moved.items() if each]
    return bool(behind), f"behind {' and '.join(behind)}" if behind else ""


def training_overridden(output):
    """The moving mean moves in ``fit``."""
    return _one_of(_numbers(output, "moving mean after fit:")[0], [0.01], [0]), ""


def variance_cancels(output):
    """With ``synchronized=True`` the variance of 16,383 and 16,385 is not 1."""
    (apart,), (together,) = _numbers(output, "variance:")
    if not _close([apart], [1]):
        raise ValueError(f"the variance is {apart} without synchronized=True")
    return not _close([together], [1]), ""


def variance_cancels_in_xla(output):
    """NaN where it is compiled, and nowhere else."""
    found = dict(re.findall(r"^(False|True) +(False|True)$", output, re.M))
    if found.get("False") != "False" or "True" not in found:
        raise ValueError("NaN where it is not compiled, or no answer")
    return found["True"] == "True", ""


RULES = {
    rule.__name__: rule
    for rule in (
        empty_replica_nan,
        exported_in_training_mode,
        first_replica_saved,
        fit_on_workers,
        mask_unsynchronizes,
        second_derivative,
        training_leaks,
        training_overridden,
        variance_cancels,
        variance_cancels_in_xla,
    )
}
