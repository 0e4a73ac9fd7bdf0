"""Tests of checks that readers paste: each as it stands in its page, where an old one erred."""

import ast
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import bnref

PITFALLS = Path(__file__).parents[1] / "gallery" / "pitfalls"


def checks(page):
    """The one-liners of a page's symptoms, in their order."""
    docstring = ast.get_docstring(ast.parse((PITFALLS / f"plot_{page}.py").read_text("utf-8")))
    texts = re.findall(r"^ +:check: (.*(?:\n {6,}\S.*)*)", docstring, re.MULTILINE)
    return [code for text in texts for code in re.findall("``(.+?)``", " ".join(text.split()))]


def answer(code, **names):
    """What the one-liner says of what stands in ``names``."""
    return eval(code, {"np": np, "bnref": bnref, **names})


@pytest.fixture
def nested():
    """A model in a model: none of the outer one's own layers has a moving mean."""
    inner = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    return keras.Sequential([keras.Input((4,)), inner])


def test_the_norms_of_a_nested_base_are_counted(nested):
    codes = [code for code in checks("training_false_does_not_freeze") if "find" in code]
    counts = [code for code in codes if code.startswith("sum(")]
    names, means = (code for code in codes if code not in counts)
    assert len(counts) == 2
    path = bnref.norms.find(nested)[0].path
    assert [answer(code, base=nested) for code in counts] == [1, 1]
    assert answer(names, model=nested) == [path]
    before = answer(means, base=nested)
    nested(5 * np.ones((8, 4)), training=True)
    moved = np.greater(answer(means, base=nested)[0], before[0])
    assert moved.all(), "a call that trains moves the means, and the list before keeps its own"
    nested.trainable = False
    assert [answer(code, base=nested) for code in counts] == [0, 0]
    assert answer(names, model=nested) == []


def test_a_constant_channel_and_a_channel_of_images_are_found_far_from_0():
    random, layer = np.random.default_rng(0), keras.layers.BatchNormalization()
    images = random.normal(0, 1, (16, 8, 8, 3)) + 20 * random.normal(size=(1, 8, 8, 1))
    far, constant = images.copy(), images.copy()
    far[..., 1] += 1e5
    constant[..., 1] = 1e5
    codes = checks("the_one_pass_variance_cancels")
    assert len(codes) == 2
    for code in codes:
        assert answer(code, x=images.astype("float32"), layer=layer) < 3, "a pixel may be bright"
        assert answer(code, x=far.astype("float32"), layer=layer) > 1000
        assert answer(code, x=constant.astype("float32"), layer=layer) > 1000


def test_the_axis_of_a_norm_without_gamma_is_seen():
    model = keras.Sequential(
        [keras.Input((3, 28, 32)), keras.layers.BatchNormalization(scale=False)]
    )
    codes = checks("the_wrong_axis_with_channels_first")
    channels = [code for code in codes if "find" in code]
    assert len(channels) == 3
    for code in channels:
        assert answer(code, model=model) == [32], "the width, not 3"
    (written,) = (code for code in codes if "get_config" in code)
    assert answer(written, layer=keras.layers.BatchNormalization(axis=1)) == 1, "one number"


@pytest.mark.parametrize(
    "page, number", [("training_was_never_told", 3), ("the_statistics_are_not_trainable", 1)]
)
def test_norms_that_never_moved_are_named(page, number, nested):
    codes = [code for code in checks(page) if "find" in code]
    assert len(codes) == number
    path = bnref.norms.find(nested)[0].path
    assert [answer(code, model=nested) for code in codes] == [[path]] * number
    nested(5 * np.ones((8, 4)), training=True)
    assert [answer(code, model=nested) for code in codes] == [[]] * number


def test_whether_a_call_names_training_is_asked_in_one_line():
    class Deaf(keras.Model):
        def call(self, x):
            return x

    code = next(code for code in checks("training_was_never_told") if "inspect" in code)
    assert answer(code, model=Deaf(), inspect=inspect) is True
    assert answer(code, model=keras.Sequential(), inspect=inspect) is False


def test_a_gamma_that_vanished_is_seen_in_any_model(nested):
    code = checks("weight_decay_is_a_learning_rate")[-1]
    assert answer(code, model=nested) == [1.0]
    bnref.norms.find(nested)[0].gamma.assign([1e-4, -1e-4, 1e-4, 1.0])
    assert answer(code, model=nested)[0] < 1e-3
