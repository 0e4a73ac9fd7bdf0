"""What stands behind figures and numbers: labelled axes, whole texts, test sets large enough.

The scripts are read here, not run. The build looks at the figures themselves, and marks those with
an axis without label or a text that is cut off (`figure_faults`, tested here); `test_site` finds
the marks.
"""

import ast
import re

import alternative_texts
import figure_faults
import matplotlib.pyplot as plt
import pytest
from helpers import ROOT
from matplotlib.figure import Figure

SCRIPTS = sorted((ROOT / "gallery").glob("*/plot_*.py"))
ENOUGH = 1000
FEWER = {
    "plot_what_several_replicas_remember": "992 images, each by two cameras: 1,984 are tested",
    "plot_one_loop_for_one_device_and_many": "one, in a run that measures no accuracy",
    "plot_gradients_explode_with_depth": "one: nothing is trained",
    "plot_speed_of_the_training_loop_on_one_device": "one: seconds are measured",
    "plot_gradients_of_single_examples": "one: gradients are measured",
    "plot_second_derivatives": "100: errors of derivatives are measured",
}


def name_of(path):
    return path.stem


def cells_with_figures(text):
    """The cells of a script that make a figure."""
    made = re.compile(r"plt\.(subplots|subplot_mosaic|figure)\(")
    return [cell for cell in re.split(r"(?m)^# %%", text) if made.search(cell)]


def constants(tree):
    """The whole numbers that a script gives a name, by name."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found.update({each.id: node.value.value for each in names(node.targets)})
    return found


def names(nodes):
    return [each for each in nodes if isinstance(each, ast.Name)]


def small_test_sets(text):
    """What a script takes for a test, or compares with its labels, and is fewer than enough."""
    tree = ast.parse(text)
    known = constants(tree)

    def number(node):
        value = getattr(node, "value", None)
        return known.get(node.id) if isinstance(node, ast.Name) else value

    def few(node):
        return isinstance(number(node), int) and number(node) < ENOUGH

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "take":
            found += [each.value for each in node.keywords if each.arg == "test"]
        if isinstance(node, ast.Compare):
            slices = [each for each in ast.walk(node) if isinstance(each, ast.Subscript)]
            slices = [each for each in slices if ast.unparse(each.value).endswith("y_test")]
            found += [each.slice.upper for each in slices if isinstance(each.slice, ast.Slice)]
    return [ast.unparse(node) for node in found if node is not None and few(node)]


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_every_figure_says_what_its_y_axis_is(script):
    for cell in cells_with_figures(script.read_text("utf-8")):
        assert "ylabel" in cell, f"{script.name}: no y label in a cell that makes a figure"


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_accuracies_are_of_a_thousand_examples_or_more(script):
    few = small_test_sets(script.read_text("utf-8"))
    assert bool(few) == (script.stem in FEWER), f"test sets of {few}; the exceptions are in FEWER"


def test_small_test_sets_are_found_however_they_are_written():
    assert small_test_sets("data.take(train=3000, test=500)") == ["500"]
    assert small_test_sets("FEW = 300\nright = answers == data.y_test[:FEW]") == ["FEW"]
    assert small_test_sets("right = y_test[:500] == answers") == ["500"]
    assert small_test_sets("data.take(train=10, test=1000)\nx_test[:64]\ny == y_test[:1000]") == []


def figure_of(**options):
    figure = Figure(layout="constrained")
    return figure, figure.subplots(1, 2, **options)


def test_an_axis_without_a_y_label_is_found():
    figure, (left, right) = figure_of()
    left.set(title="Left", ylabel="loss")
    right.set_title("Right")
    assert figure_faults.unlabelled(figure) == ["Right"]
    right.set_ylabel("test accuracy")
    assert figure_faults.unlabelled(figure) == []


def test_axes_that_need_no_label_of_their_own_are_left_alone():
    figure, (left, _) = figure_of(sharey=True)
    left.set_ylabel("loss")  # the right one has no numbers of its own
    assert figure_faults.unlabelled(figure) == []
    figure, (left, right) = figure_of()
    left.imshow([[0, 1]])
    left.set_axis_off()
    right.set_ylabel("loss")
    figure.colorbar(left.images[0], ax=right)
    assert figure_faults.unlabelled(figure) == []


@pytest.mark.parametrize("place", ["left", "center", "right"])
def test_a_title_that_the_edge_cuts_is_found(place):
    figure, (_, right) = figure_of()
    right.set_title("whole", loc=place)
    assert figure_faults.cut_off(figure) == []
    title = "a title that is longer than the figure is wide, so nobody reads all of it " * 2
    right.set_title(title, loc=place)
    assert figure_faults.cut_off(figure) == [title]


def test_a_label_or_a_legend_that_the_edge_cuts_is_found():
    figure, (left, _) = figure_of()
    long = "a label that is longer than the figure is high" * 2
    left.set_ylabel(long)
    assert figure_faults.cut_off(figure) == [long]
    left.set_ylabel("")
    for name in ("one of three curves", "two of three curves", "the last of three curves"):
        left.plot([0, 1], label=name)
    figure.legend(loc="outside lower center", ncols=1)
    assert figure_faults.cut_off(figure) == []
    figure.legends[0].remove()
    figure.legend(loc="outside lower center", ncols=3, fontsize=16)
    assert figure_faults.cut_off(figure) == ["one of three curves", "the last of three curves"]


def test_the_build_marks_a_figure_whose_axis_has_no_label(monkeypatch):
    rst = ".. image-sg:: /a.png\n   :alt: its title\n   :class: sphx-glr-single-img\n"
    monkeypatch.setattr("sphinx_gallery.scrapers.matplotlib_scraper", lambda *_, **__: rst)
    figure = plt.figure()
    ax = figure.subplots()
    assert "sphx-glr-single-img lacks-y-label\n" in alternative_texts.scraper(None, None, None)
    ax.set_ylabel("loss")
    assert "sphx-glr-single-img\n" in alternative_texts.scraper(None, None, None)
    plt.close(figure)
