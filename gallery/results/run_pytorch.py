"""Record what the PyTorch code on gallery pages does: the symptom with Wrong, and with Right.

``python gallery/results/run_pytorch.py``: a page may say in its section Fix what is wrong and what
is right in PyTorch. Here that code is taken out of the page and run, with three seeds, on a small
problem of ``pytorch_problems``; every value has to lie within the bounds below, else nothing is
recorded of that page. Delete the file to measure all anew. Half a minute on two cores.

    pip install torch

TensorFlow is not needed; where bnref is not installed, ``PYTHONPATH=gallery`` finds its records.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from pytorch_problems import remembered_how, used_when, whose_statistics

from bnref_gallery import pytorch_tabs, records

COLUMNS = ("page", "side", "what", "unit", "seed", "value", "digest")
SEEDS = range(3)


class Problem(NamedTuple):
    """What is measured of a page's code, by a function of the code and a seed, and its bounds."""

    measured: Callable[[str, int], float]
    what: str
    unit: str
    wrong: tuple  # the least and the greatest value with Wrong, which show the symptom
    right: tuple  # with Right, which do not


PROBLEMS = {
    "pitfalls/plot_accumulated_gradients_are_not_a_large_batch": Problem(
        whose_statistics.error_of_accumulated_gradient,
        "error of the gradient of 8 micro-batches of 8, in lengths of that of the batch of 64",
        "",
        wrong=(0.3, 1),
        right=(0, 1e-5),
    ),
    "pitfalls/plot_averaged_weights_need_their_own_statistics": Problem(
        remembered_how.accuracy_of_averaged,
        "test accuracy of the averaged weights",
        " %",
        wrong=(30, 90),
        right=(94, 100),
    ),
    "pitfalls/plot_exported_in_training_mode": Problem(
        used_when.accuracy_of_exported,
        "test accuracy of the exported program, where the examples come class by class",
        " %",
        wrong=(0, 30),
        right=(90, 100),
    ),
    "pitfalls/plot_few_batches_leave_the_old_statistics": Problem(
        remembered_how.accuracy_after_few_steps,
        "accuracy on the examples that the network was tuned on in five steps",
        " %",
        wrong=(0, 50),
        right=(90, 100),
    ),
    "pitfalls/plot_folding_by_the_wrong_formula": Problem(
        used_when.error_of_folded,
        "error of the folded layer over the largest output",
        "",
        wrong=(0.1, 10),
        right=(0, 1e-4),
    ),
    "pitfalls/plot_half_precision_overflows_and_stands_still": Problem(
        remembered_how.running_variance,
        "running variance after 1,000 batches of variance 4, with momentum 0.01",
        "",
        wrong=(3.1, 3.5),
        right=(3.99, 4.01),
    ),
    "pitfalls/plot_numbers_differ_after_a_port": Problem(
        remembered_how.error_of_running_mean,
        "error of the running mean after 1,000 batches of 8, in deviations of the data",
        "",
        wrong=(0.25, 0.5),
        right=(0.01, 0.05),
    ),
    "pitfalls/plot_one_norm_for_two_branches": Problem(
        remembered_how.share_of_partners_found,
        "test examples that find a partner of their class at inference",
        " %",
        wrong=(0, 50),
        right=(80, 100),
    ),
    "pitfalls/plot_one_value_a_channel": Problem(
        whose_statistics.epochs_ended_by_the_last_batch,
        f"epochs, of 3, that end in “ValueError: {whose_statistics.MESSAGE}”",
        "",
        wrong=(3, 3),
        right=(0, 0),
    ),
    "pitfalls/plot_passes_that_should_not_be_remembered": Problem(
        remembered_how.accuracy_after_second_passes,
        "test accuracy, where the unlabelled data are 100 times as large",
        " %",
        wrong=(0, 30),
        right=(90, 100),
    ),
    "pitfalls/plot_the_statistics_are_not_trainable": Problem(
        remembered_how.accuracy_of_copy,
        "test accuracy of the other model",
        " %",
        wrong=(0, 40),
        right=(90, 100),
    ),
    "pitfalls/plot_the_wrong_axis_with_channels_first": Problem(
        whose_statistics.largest_mean_of_a_channel,
        "largest mean of a channel that comes out, which should be 0",
        "",
        wrong=(1, 2),
        right=(0, 1e-5),
    ),
    "pitfalls/plot_weight_decay_is_a_learning_rate": Problem(
        remembered_how.gamma_after_an_epoch,
        "mean of γ after 40 steps with a weight decay of 0.05",
        "",
        wrong=(0.7, 0.9),
        right=(0.95, 1.1),
    ),
    "pitfalls/plot_training_false_does_not_freeze": Problem(
        used_when.move_of_frozen_statistics,
        "largest move of a running mean in an epoch on other data, in deviations",
        "",
        wrong=(0.5, 5),
        right=(0, 0),
    ),
    "pitfalls/plot_training_was_never_told": Problem(
        used_when.accuracy_class_by_class,
        "test accuracy, where the test examples come class by class",
        " %",
        wrong=(0, 30),
        right=(90, 100),
    ),
}


def rows(page):
    """The rows of both sides of a page, once each value is found to be within its bounds."""
    problem, found = PROBLEMS[page], []
    for side, code in pytorch_tabs.codes(page).items():
        least, greatest = problem.wrong if side == "Wrong" else problem.right
        for seed in SEEDS:
            value = problem.measured(code, seed)
            assert least <= value <= greatest, (
                f"{page}, {side}, seed {seed}: {problem.what} {value:.4g}{problem.unit} is not "
                f"within {least} and {greatest}"
            )
            row = (page, side, problem.what, problem.unit, seed, value, pytorch_tabs.digest(code))
            found.append(dict(zip(COLUMNS, row, strict=True)))
    return found


def main():
    """Record the pages that are not yet in the file."""
    unused = dict.fromkeys(("tensorflow", "keras", "bnref"), "not used")
    record = records.Record(
        records.path_of("pytorch.csv"), key=("page",), columns=COLUMNS,
        provenance={**unused, "torch": torch.__version__, "data": "made by pytorch_problems"},
    )  # fmt: skip
    for each in record.progress([{"page": page} for page in pytorch_tabs.pages()]):
        record.add(rows(**each))


if __name__ == "__main__":
    main()
