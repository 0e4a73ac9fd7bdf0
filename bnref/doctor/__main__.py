"""``python -m bnref.doctor model.keras data.npz``: a saved model and its data examined."""

import argparse
import sys
import warnings
from pathlib import Path

import keras
import numpy as np

from bnref.doctor import examine

FOUND, CLEAN, BAD_INPUT = 1, 0, 2


def main(arguments: list[str] | None = None) -> int:
    """Print the report; the exit status is 1 with findings, 0 without, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m bnref.doctor",
        description="What is wrong with the batch norm of a saved model.",
        epilog="Exit status: 0 nothing found, 1 something found, 2 bad input.",
    )
    parser.add_argument("model", type=Path, help="a .keras file")
    parser.add_argument(
        "data", type=Path, help="an .npz file with x, or x and y, in training order"
    )
    parser.add_argument("--validation", type=Path, help="an .npz file, as data")
    parser.add_argument("--batch-size", type=int, default=32, help="that of training (32)")
    parser.add_argument("--html", type=Path, help="write the report as one HTML file")
    parser.add_argument("--json", type=Path, help="write the report as JSON")
    given = parser.parse_args(arguments)
    try:
        model, data = _model(given.model), _arrays(given.data)
        validation = None if given.validation is None else _arrays(given.validation)
        report = examine(model, data, validation, batch_size=given.batch_size)
        if given.html is not None:
            report.to_html(given.html)
        if given.json is not None:
            report.to_json(given.json)
    except (OSError, ValueError) as error:
        print(f"bnref.doctor: {error}", file=sys.stderr)
        return BAD_INPUT
    print(report)
    return FOUND if report.findings else CLEAN


def _model(path):
    if not path.exists():
        raise ValueError(f"model must be a file; there is no {path}")
    try:
        with warnings.catch_warnings():
            # Of an optimizer that has not made a step: nothing here depends on it.
            warnings.simplefilter("ignore")
            return keras.saving.load_model(path)
    except (OSError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model must be a .keras file that Keras can load; {path} failed with: {reason} "
            "(layers of your own: call bnref.doctor.examine in a script that imports them)"
        ) from error


def _arrays(path):
    if not path.exists():
        raise ValueError(f"data must be a file; there is no {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"data must be an .npz file of numbers; {path} cannot be read") from error
    if "x" not in found:
        names = ", ".join(found) or "none"
        raise ValueError(f"data must hold x, or x and y; {path} holds {names}")
    return (found["x"], found["y"]) if "y" in found else found["x"]


if __name__ == "__main__":
    sys.exit(main())
