"""Tests of the checks of the symptom finder: what a reader pastes gives the right answer.

Each check is read out of the docstring of its page, as it stands there.
"""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import result_in_new_process, strategy_of

import bnref
from bnref import devices

PITFALLS = Path(__file__).parents[1] / "gallery/pitfalls"


def literals(page, having):
    """The literals of the one check of a page that has these words."""
    text = ast.get_docstring(ast.parse((PITFALLS / f"plot_{page}.py").read_text("utf-8")))
    checks = re.findall(r"^ +:check: (.*(?:\n {6,}\S.*)*)", text, re.MULTILINE)
    found = {" ".join(each.split()) for each in checks if having in each}
    assert len(found) == 1, f"{page} has {len(found)} checks with {having!r}"
    return re.findall("``(.*?)``", found.pop())


def answer(page, having, **names):
    """What the check says; literals after the first that assign a name belong to it."""
    check, *rest = literals(page, having)
    scope = {"np": np, "tf": tf, **names}
    for line in rest:
        if re.match(r"\w+ = ", line):
            exec(line, scope)
    return bool(eval(check, scope))


@pytest.mark.parametrize(
    "examples, batch, replicas, empty",
    [(10, 64, 8, True), (64 + 10, 64, 8, True), (33, 32, 2, True), (64, 64, 8, False),
     (65, 64, 2, True), (66, 64, 2, False), (7, 64, 4, False), (5, 64, 4, True)],
)  # fmt: skip
def test_a_replica_is_empty_by_tensorflows_own_shares(examples, batch, replicas, empty):
    """10 examples for 8 replicas leave three empty, though there are more examples than replicas.

    And what ``fit`` is given is a Dataset, which often has no length.
    """
    x = np.zeros((examples, 1))
    dataset = tf.data.Dataset.from_tensor_slices((x, x)).filter(lambda *_: True).batch(batch)
    found = answer(
        "an_empty_replica_leaves_nan_behind",
        "replicas",
        dataset=dataset,
        strategy=SimpleNamespace(num_replicas_in_sync=replicas),
    )
    assert found == empty


@pytest.mark.parametrize("examples, one", [(65, True), (64, False), (66, False)])
def test_a_last_batch_of_one_is_found_in_a_dataset_without_a_length(examples, one):
    x = np.zeros((examples, 1))
    dataset = tf.data.Dataset.from_tensor_slices((x, x)).filter(lambda *_: True).batch(32)
    assert answer("one_value_a_channel", "[-1] == 1", dataset=dataset) == one


class InHalf(bnref.BatchNorm):
    """Takes its moments in the precision of its inputs."""

    def call(self, inputs, training=None, mask=None):
        mean = tf.reduce_mean(inputs, (0, 1, 2))
        variance = tf.reduce_mean(tf.math.squared_difference(inputs, mean), (0, 1, 2))
        self.moving_variance.assign(tf.cast(variance, "float32"))
        return inputs


@pytest.mark.parametrize(
    "norm, dtype, overflows",
    [
        (keras.layers.BatchNormalization, "float32", False),
        (keras.layers.BatchNormalization, "mixed_float16", False),
        (InHalf, "float16", True),
    ],
)
def test_only_a_sum_of_squares_in_half_precision_overflows(norm, dtype, overflows):
    """The squares of these inputs add up to more than 65,504, as in any healthy large network."""
    kind = "float32" if dtype == "float32" else "float16"
    x = np.random.default_rng(0).normal(0, 30, (8, 14, 14, 4)).astype(kind)
    assert np.square(np.float32(x)).sum((0, 1, 2)).max() > 65504
    layer = norm(dtype=dtype)
    layer(x, training=True)
    page = "half_precision_overflows_and_stands_still"
    assert answer(page, "isfinite", x=x, layer=layer) == overflows


@pytest.mark.parametrize("dtype, half", [("float32", False), ("bfloat16", True)])
def test_half_precision_is_read_from_the_variable(dtype, half):
    layer = keras.layers.BatchNormalization(dtype=dtype)
    layer.build((None, 2))
    page = "half_precision_overflows_and_stands_still"
    assert answer(page, "moving_variance.dtype", layer=layer) == half


def test_what_is_served_may_differ_by_rounding_and_not_by_the_batch():
    """Healthy models differ by up to 2e-4 of their deviation: equality would call them ill."""
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 4)).astype("float32")

    def rounding(x):
        return np.tanh(x) + (1e-4 if len(x) == 1 else 0)

    def by_the_batch(x):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)

    page = "exported_in_training_mode"
    assert not answer(page, "np.std(served(x))", served=rounding, x=x)
    assert answer(page, "np.std(served(x))", served=by_the_batch, x=x)
    assert not answer(page, "np.std(served(x))", served=lambda x: 1e-6 * rounding(x), x=x)
    assert answer(page, "np.std(served(x))", served=lambda x: 1e-6 * by_the_batch(x), x=x)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_the_exported_function_is_compared_with_the_model_in_the_scale_of_its_outputs(scale):
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    model = SimpleNamespace(predict=lambda x: scale * np.tanh(x))
    rounded = SimpleNamespace(serve=lambda x: scale * (np.tanh(x) + 1e-4))
    in_training_mode = SimpleNamespace(serve=lambda x: scale * np.tanh(x - x.mean(0)))
    for loaded, differs in ((rounded, False), (in_training_mode, True)):
        found = answer(
            "exported_in_training_mode", "np.std(predicted)", loaded=loaded, model=model, x=x
        )
        assert found == differs


@pytest.mark.slow
def test_only_a_synchronized_layer_is_called_unsynchronized_by_its_mask():
    """The replicas of a layer that is not synchronized differ too: for another reason."""
    found = result_in_new_process(masked)
    assert found == {"unsynchronized": False, "synchronized": False, "with a mask": True}


def masked():
    devices.configure(cpus=2)
    strategy, found = strategy_of(2), {}
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 1)).astype("float32")
    for name in ("unsynchronized", "synchronized", "with a mask"):
        with strategy.scope():
            layer = keras.layers.BatchNormalization(synchronized=name != "unsynchronized")
            layer.build((None, 3, 1))
        mask = tf.ones((4, 3), bool) if name == "with a mask" else None
        bnref.training.on_replicas(strategy, lambda x: layer(x, training=True, mask=mask))(x)  # noqa: B023
        page = "a_mask_switches_synchronization_off"
        found[name] = answer(page, "synchronized", layer=layer, strategy=strategy)
    return found


@pytest.mark.parametrize(
    "page, having, wrong, right",
    [
        ("accumulated_gradients_are_not_a_large_batch", "accumulation", (32, 2), (None, 2)),
        ("accumulated_gradients_are_not_a_large_batch", "accumulation", (2, 2), (2, 32)),
    ],
)
def test_accumulated_gradients_can_be_asked_of_an_optimizer(page, having, wrong, right):
    for (steps, size), expected in ((wrong, True), (right, False)):
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)
        assert answer(page, having, optimizer=optimizer, batch_size=size) == expected


def test_every_check_of_these_pages_can_be_pasted():
    """What a check puts between double backticks is Python."""
    for page in (
        "averaged_weights_need_their_own_statistics", "exported_in_training_mode",
        "half_precision_overflows_and_stands_still", "one_value_a_channel",
        "an_empty_replica_leaves_nan_behind", "a_mask_switches_synchronization_off",
        "accumulated_gradients_are_not_a_large_batch", "numbers_differ_after_a_port",
        "no_gradient_through_the_statistics", "dropout_before_batch_norm",
        "few_batches_leave_the_old_statistics", "one_norm_for_two_branches",
    ):  # fmt: skip
        text = (PITFALLS / f"plot_{page}.py").read_text("utf-8")
        for check in re.findall(r"^ +:check: (.*(?:\n {6,}\S.*)*)", text, re.MULTILINE):
            for literal in re.findall("``(.*?)``", " ".join(check.split())):
                ast.parse(literal)
