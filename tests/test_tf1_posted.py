"""Tests of bnref.tf1.posted: the four functions of the post, their repairs, and the fault."""

import itertools
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import BETA, GAMMA

from bnref.tf1 import (
    METHODS,
    on_towers,
    separate_memory,
    session,
    shared_memory,
    tensorflow_1,
    training_step,
)

pytestmark = pytest.mark.slow
v1 = tf.compat.v1
CLOSE = {"rtol": 3e-5, "atol": 3e-5}
EPSILON = {1: 1e-5, 2: 1e-3, 3: 1e-3, 4: 1e-3}
AVERAGES = {
    1: [f"bn_conv/{name}/ExponentialMovingAverage" for name in ("batch_mean", "batch_var")],
    2: ("mean_average", "var_average"),
    3: ("batch_mean", "batch_var"),
    4: ("moving_mean", "moving_variance"),
}
FORMS = list(itertools.product(METHODS, [False, True]))
ONE_DEVICE = shared_memory(1, variables="with the first tower")


@contextmanager
def running(method, placement=ONE_DEVICE, *, gamma=GAMMA, beta=BETA, conditions=(), **options):
    """A normalization of three channels on the towers of a placement, ready to run."""
    with tensorflow_1(**dict(conditions)):
        x = v1.placeholder(tf.float32, (None, 2, 2, 3))
        dy = v1.placeholder(tf.float32, (None, 2, 2, 3))
        training = v1.placeholder(tf.bool, ())
        norm = partial(METHODS[method], training=training, **options)
        towers = on_towers(norm, x, placement=placement)
        named = {each.op.name: each for each in v1.global_variables()}
        trained = [named["bn_conv/gamma"], named["bn_conv/beta"]]
        gradients = tf.gradients(towers, [x, *trained], [dy] * len(towers))
        updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        step = training_step(
            [tf.reduce_sum(each) for each in towers],
            optimizer=v1.train.GradientDescentOptimizer(0.0), placement=placement,
        )  # fmt: skip
        with session(placement) as opened:
            # In the order of their creation: an average starts as a copy of what it averages, and
            # with reference variables and control flow v2 may read it before it is initialized.
            for each in v1.global_variables():
                opened.run(each.initializer)
            opened.run([v1.assign(*each) for each in zip(trained, (gamma, beta), strict=True)])

            def state(*names):
                fetches = [named[f"bn_conv/{name}"] for name in names or AVERAGES[method]]
                # A copy: what a session returns of a reference variable may be its own memory.
                return np.array(opened.run(fetches))

            def output(of, *, at_training=True, collected=True):
                fetches = towers, updates if collected else []
                return opened.run(fetches, {x: of, training: at_training})[0]

            yield SimpleNamespace(
                state=state,
                output=output,
                gradients=lambda of, by: opened.run(gradients, {x: of, dy: by, training: True}),
                train=lambda of: opened.run(step, {x: of, training: True}),
            )


def growing(batch, steps):
    """Batches, one a step, each of other means and variances than those before."""
    return [batch((8, 2, 2, 3), t) * np.float32(1 + t) for t in range(steps)]


def average_of(batches, decay=0.5, start=(0, 0)):
    """Mean and variance, started at the same for all channels."""
    moments = np.array(list(map(reference.moments, batches)))
    first = np.reshape(start, (2, 1))
    return reference.exponential_average(moments, momentum=decay, start=first)


def used_by(x, y, epsilon):
    """Mean and variance by which `x` became `y`, where gamma is 1 and beta is 0."""
    x, y = (np.float64(each).reshape(-1, each.shape[-1]) for each in (x, y))
    deviation = x.std(0) / y.std(0)
    return np.array([x.mean(0) - y.mean(0) * deviation, deviation**2 - epsilon])


def same(one, other):
    return np.isclose(one, other, rtol=1e-3, atol=1e-3)


def one_of(used, candidates):
    """Whether each number is that of one of the candidates, not of the same one for all."""
    return np.any([same(used, np.array(each)) for each in candidates], 0).all()


@contextmanager
def used_by_towers(method, placement, **options):
    """Yield ``step(x)`` -> pairs of the moments a tower should use and those it used."""
    with running(method, placement, gamma=[1.0] * 3, beta=[0.0] * 3, **options) as norm:

        def step(x):
            shares = np.split(x, len(placement.towers))
            return [
                (np.array(reference.moments(share)), used_by(share, y, EPSILON[method]))
                for share, y in zip(shares, norm.output(x), strict=True)
            ]

        yield step


@pytest.mark.parametrize("method, repaired", FORMS)
def test_training_normalizes_by_the_batch_on_one_device(batch, method, repaired):
    with running(method, repaired=repaired) as norm:
        for x in growing(batch, 3):
            expected = reference.batch_norm(x, GAMMA, BETA, epsilon=EPSILON[method])
            np.testing.assert_allclose(norm.output(x)[0], expected, **CLOSE)


@pytest.mark.parametrize("options", [{}, {"decay": 0.9}])
@pytest.mark.parametrize("method, repaired", [form for form in FORMS if form[0] != 1])
def test_the_average_after_k_steps_is_the_closed_form(batch, method, repaired, options):
    batches, start = growing(batch, 7), (0, 1 if method == 4 else 0)
    with running(method, repaired=repaired, **options) as norm:
        for k, x in enumerate(batches, 1):
            norm.train(x)
            expected = average_of(batches[:k], start=start, **options)
            np.testing.assert_allclose(norm.state(), expected, **CLOSE)


@pytest.mark.parametrize("method, repaired", [form for form in FORMS if form[0] != 1])
def test_running_the_output_alone_moves_the_average_but_in_method_4(batch, method, repaired):
    with running(method, repaired=repaired) as norm:
        before = norm.state()
        norm.output(*growing(batch, 1), collected=False)
        moves = (method, repaired) != (4, False)
        np.testing.assert_array_equal(norm.state() != before, np.full((2, 3), moves))


@pytest.mark.parametrize("decay", [0.5, 0.9])
@pytest.mark.parametrize("repaired", [False, True])
def test_method_1_averages_the_stored_moments_of_this_step_or_of_the_one_before(
    batch, repaired, decay
):
    with running(1, repaired=repaired, decay=decay) as norm:
        stored, average = np.zeros((2, 3)), np.zeros((2, 3))
        for x in growing(batch, 5):
            norm.output(x)
            before, stored = stored, norm.state("batch_mean", "batch_var")
            np.testing.assert_allclose(stored, reference.moments(x), **CLOSE)
            either = [decay * average + (1 - decay) * each for each in (before, stored)]
            average = norm.state()
            assert one_of(average, either)


@pytest.mark.parametrize("method, repaired", FORMS)
def test_inference_normalizes_by_the_average_and_moves_it_only_in_methods_1_and_3(
    batch, method, repaired
):
    *batches, other = growing(batch, 4)
    with running(method, repaired=repaired) as norm:
        for x in batches:
            norm.train(x)
        before = norm.state()
        (y,) = norm.output(other, at_training=False)
        after = norm.state()
    expected = [
        reference.normalized_by(*average, other, GAMMA, BETA, epsilon=EPSILON[method])
        for average in itertools.product(*zip(before, after, strict=True))
    ]
    assert one_of(y, expected), "where it moves, read before or after"
    moves = method == 1 or (method, repaired) == (3, False)
    np.testing.assert_array_equal(after != before, np.full((2, 3), moves))


def test_method_3_counts_a_batch_of_inference_as_one_of_training(batch):
    batches = growing(batch, 3)
    with running(3) as norm:
        for x in batches:
            norm.output(x, at_training=False)
        np.testing.assert_allclose(norm.state(), average_of(batches), **CLOSE)


@pytest.mark.parametrize("method, repaired", FORMS)
def test_a_gradient_passes_through_the_statistics_but_in_method_1_as_posted(
    batch, method, repaired
):
    x, dy, epsilon = batch((8, 2, 2, 3)), batch((8, 2, 2, 3), 1), EPSILON[method]
    dx, *others = reference.batch_norm_gradient(dy, x, np.array(GAMMA), epsilon=epsilon)
    if (method, repaired) == (1, False):
        dx = dy * GAMMA / np.sqrt(reference.moments(x)[1] + epsilon)
    with running(method, repaired=repaired) as norm:
        for actual, expected in zip(norm.gradients(x, dy), (dx, *others), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method, repaired", FORMS)
def test_the_second_tower_has_the_variables_of_the_first_and_none_else(method, repaired):
    placement = shared_memory(2)
    with tensorflow_1():
        names = []

        def tower(x):
            y = METHODS[method](x, tf.constant(True), repaired=repaired, scope="bn")
            names.append([each.name for each in v1.global_variables()])
            return y

        on_towers(tower, tf.zeros((4, 3)), placement=placement)
        trainable = {each.op.name for each in v1.trainable_variables()}
    assert names[0] == names[1] and len(names[0]) == (6 if method == 1 else 4)
    assert all(name.startswith("bn/") for name in names[0])
    posted_2 = {"bn/mean_average", "bn/var_average"} if (method, repaired) == (2, False) else set()
    assert trainable == {"bn/gamma", "bn/beta"} | posted_2


@pytest.mark.parametrize("method, repaired", FORMS[1:])
def test_without_the_fault_each_tower_uses_its_own_moments(batch, method, repaired):
    with used_by_towers(method, separate_memory(2), repaired=repaired) as step:
        for x in growing(batch, 3):
            for own, used in step(x):
                assert same(used, own).all()


@pytest.mark.parametrize("resource, v2", list(itertools.product([False, True], repeat=2)))
def test_the_fault_of_reading_the_step_before_needs_both_defaults_of_tensorflow_1(
    batch, resource, v2
):
    conditions = {"resource_variables": resource, "control_flow_v2": v2}
    before, late, timely = np.zeros((2, 3)), 0, 0
    with used_by_towers(1, separate_memory(1), conditions=conditions) as step:
        for x in growing(batch, 12):
            ((own, used),) = step(x)
            # By a race, which the step before wins all but always.
            assert one_of(used, [before, own])
            late, timely = late + same(used, before).all(), timely + same(used, own).all()
            before = own
    assert timely == 12 if resource or v2 else late > 6


@pytest.mark.parametrize("variables", ["apart", "with the first tower"])
def test_with_shared_memory_method_1_uses_moments_of_this_step(batch, variables):
    with used_by_towers(1, shared_memory(2, variables=variables)) as step:
        for x in growing(batch, 5):
            towers = step(x)
            assert all(one_of(used, [own for own, _ in towers]) for _, used in towers)


def test_with_the_variables_on_the_first_tower_the_second_is_wrong(batch):
    placement = separate_memory(2, variables="with the first tower")
    with used_by_towers(1, placement) as step:
        seen, wrong = [np.zeros((2, 3))], []
        for x in growing(batch, 5):
            (first, used_first), (second, used_second) = step(x)
            seen += [first, second]
            assert one_of(used_first, [first, second])
            assert one_of(used_second, seen)
            wrong.append(not same(used_second, second).all())
    assert any(wrong)
