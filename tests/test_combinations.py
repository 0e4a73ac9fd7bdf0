"""Every pair of variants: what two questions answered differently give together, or a refusal.

The oracle puts the answers together in float64, one question at a time, on one replica and on two
of different size. Run as a script, this file is the process in which the pairs run.
"""

import itertools
import re
from typing import NamedTuple

import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
    EPSILON,
    GAMMA,
    MEAN,
    VARIANCE,
    batch_of,
    local,
    output_and_gradients,
    result_in_new_process,
    strategy_of,
)
from layers_under_test import CASES, CLIPPED, Case, domains, some_steps

from bnref import devices, layers

MOMENTUM, STEPS = 0.6, 2
FIRST = ("Sync", "Pooled", "ReplicaMean")  # those that add to what the next class answers
WHOSE, HOW = ("Ghost", "Masked", "Domain", "Sync"), ("Cumulative", "Debiased", "Lasagne", "Pooled",
                                                    "ReplicaMean")  # fmt: skip
WHEN = ("BatchRenorm", "Frozen", "Untracked", "ExampleWeighing")
ALL = (*FIRST, *(each for each in (*WHOSE, *HOW, *WHEN) if each not in FIRST))
PAIRS = list(itertools.combinations(ALL, 2))
TWICE = [pair for group in (WHOSE, HOW, WHEN) for pair in PAIRS if set(pair) <= set(group)]
# Of the same question, and still one answer: over the replicas, or in training and at inference.
GO_TOGETHER = [("Sync", "Masked"), ("Sync", "Domain"), ("BatchRenorm", "ExampleWeighing"),
               ("Frozen", "ExampleWeighing")]  # fmt: skip
GO_TOGETHER += [(a, b) for a in ("Pooled", "ReplicaMean") for b in HOW if b not in FIRST]
WITHOUT_MEANING = [("Masked", "ExampleWeighing"), ("Domain", "ExampleWeighing")]
REFUSED = [pair for pair in TWICE if pair not in GO_TOGETHER] + WITHOUT_MEANING
COMBINED = [pair for pair in PAIRS if pair not in REFUSED]


def kind(name):
    return getattr(layers, name if name.startswith("Batch") else f"{name}BatchNorm")


def combined(pair):
    return type("And".join(pair), tuple(map(kind, pair)), {})


def options_of(pair):
    given = [CASES[kind(name).__name__].options for name in pair]
    return {**given[0], **given[1], "dtype": "float64"}


def extra_of(pair, shape):
    if "Masked" in pair:
        return {"mask": some_steps(shape[:2])}
    return domains(shape) if "Domain" in pair else {}


def batches_of(replicas, step):
    """Replicas differ in size, mean and scale; Ghost needs an even number."""
    return [
        batch_of((size, 2, 3), 10 * step + i, "float64") * (1 + i) + 3 * i
        for i, size in enumerate((4, 6)[:replicas])
    ]


# The oracle. A row is a group of values that are normalized by the same statistics.


class Row(NamedTuple):
    replica: int
    domain: int
    where: np.ndarray  # of this replica's (N, positions)
    values: list  # one array (n, 3) a replica that takes part


def rows_of(pair, batches):
    """Question 1: the rows of every replica's batch."""
    rows = []
    for i, x in enumerate(batches):
        every, extra = np.ones(x.shape[:2], bool), extra_of(pair, x.shape)
        if "Ghost" in pair:
            half = np.arange(len(x)) < len(x) // 2
            masks = [(0, every & half[:, None]), (0, every & ~half[:, None])]
        elif "Domain" in pair:
            masks = [(d, every & (extra["domain"] == d)[:, None]) for d in (0, 2)]
        else:
            masks = [(0, extra.get("mask", every))]
        rows += [Row(i, d, where, [x[where]]) for d, where in masks]
    if "Sync" in pair:
        of = {d: [row.values[0] for row in rows if row.domain == d] for d in (0, 1, 2)}
        rows = [row._replace(values=of[row.domain]) for row in rows]
    return rows


def moments(row):
    return reference.moments(np.concatenate(row.values))


def remembered_rows(pair, rows, replica, domain):
    """Question 2, which moments: (mean, variance) pairs that are averaged."""
    rows = [row for row in rows if row.domain == domain]
    if "Pooled" in pair:
        own = [row.values for row in rows] if "Sync" not in pair else [rows[0].values]
        return [reference.moments(np.concatenate([v for values in own for v in values]))]
    if "ReplicaMean" in pair:
        each = [[moments(r) for r in rows if r.replica == i] for i in {r.replica for r in rows}]
        return [np.mean(np.mean(each, 1), 0)]
    return [moments(row) for row in rows if row.replica == replica]


def population_after(pair, history, replica, domain, start):
    """Question 2, how: after all steps; ``history`` has the rows of each."""
    if {"Frozen", "Untracked"} & set(pair):
        return start
    each = [remembered_rows(pair, rows, replica, domain) for rows in history]
    means = [np.mean([mean for mean, _ in of_step], 0) for of_step in each]
    spread = [np.mean([variance for _, variance in of_step], 0) for of_step in each]
    if "Lasagne" in pair:
        spread = [np.mean([(v + EPSILON) ** -0.5 for _, v in of_step], 0) for of_step in each]
        start = start[0], (start[1] + EPSILON) ** -0.5
    if "Cumulative" in pair:
        mean, spread = map(reference.cumulative_average, (means, spread))
    elif "Debiased" in pair:
        of = reference.debiased_average
        mean, spread = (of(values, momentum=MOMENTUM) for values in (means, spread))
    else:
        of = reference.exponential_average
        mean, spread = (
            of(values, momentum=MOMENTUM, start=first)
            for values, first in zip((means, spread), start, strict=True)
        )
    return mean, spread**-2 - EPSILON if "Lasagne" in pair else spread


def output(pair, batches, populations, affine, corrections=None, training=True):
    """Question 3: y of each replica. ``populations[i][d]`` is that of replica i and domain d."""
    rows, ys = rows_of(pair, batches), [np.zeros(x.shape) for x in batches]
    for number, row in enumerate(rows):
        x, population = batches[row.replica][row.where], populations[row.replica][row.domain]
        gamma, beta = affine[0][row.domain], affine[1][row.domain]
        batch = training and "Frozen" not in pair or not training and "Untracked" in pair
        mean, variance = moments(row) if batch else population
        if not training and "ExampleWeighing" in pair:
            y = reference.example_weighing(
                batches[row.replica], gamma, beta, *population, weight=0.3, epsilon=EPSILON
            )[row.where]
        else:
            r, d = corrections[number] if corrections and training else (1, 0)
            y = gamma * ((x - mean) / np.sqrt(variance + EPSILON) * r + d) + beta
        ys[row.replica][row.where] = y
    return ys


def corrections_of(pair, batches, populations):
    """r and d of each row, which count as constants."""
    if "BatchRenorm" not in pair:
        return None
    found = []
    for row in rows_of(pair, batches):
        mean, variance = populations[row.replica][row.domain]
        values, sigma = np.concatenate(row.values), np.sqrt(variance + EPSILON)
        found.append(reference.renorm_correction(values, mean, sigma, **CLIPPED, epsilon=EPSILON))
    return found


def gradients(pair, batches, dys, populations, affine):
    """By central differences of Σ dy·y over all replicas, of the last step."""
    corrections = corrections_of(pair, batches, populations)

    def loss():
        ys = output(pair, batches, populations, affine, corrections)
        return sum(np.sum(dy * y) for dy, y in zip(dys, ys, strict=True))

    found = []
    for x in batches:
        dx = np.empty(x.shape)
        for index in np.ndindex(x.shape):
            kept = x[index]
            x[index] = kept + 1e-5
            above = loss()
            x[index] = kept - 1e-5
            dx[index], x[index] = (above - loss()) / 2e-5, kept
        found.append(dx)
    return found


def start_of(pair):
    """γ, β, mean and variance: a row a domain, as `helpers.with_state` sets them."""
    rows = 1.5 ** np.arange(3)[:, None] if "Domain" in pair else np.ones((1, 1))
    return [np.array(value) * rows for value in (GAMMA, BETA, MEAN, VARIANCE)]


# The layers.


class Job(NamedTuple):
    pair: tuple
    replicas: int

    def run(self):
        strategy = strategy_of(self.replicas)
        with strategy.scope():
            layer = Case(combined(self.pair), options_of(self.pair)).make(3)
        batches = [batches_of(self.replicas, step) for step in range(STEPS)]
        dys = batches_of(self.replicas, 7)

        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine, seen = int(tf.get_static_value(replica)), []
            for of_step in batches:
                extra = extra_of(self.pair, of_step[mine].shape)
                seen.append(output_and_gradients(layer, of_step[mine], dys[mine], **extra)[:2])
            state = {each.name: each.value.read_value() for each in layer.variables}
            return seen[-1], layer(batches[0][mine], training=False, **extra), state

        outcome = strategy.run(on_replica)
        return [
            tf.nest.map_structure(lambda each, i=i: local(strategy, each, i), outcome)
            for i in range(self.replicas)
        ]


JOBS = [Job(pair, replicas) for pair in COMBINED for replicas in (1, 2)]


def run_all():
    devices.configure(cpus=2)
    return [job.run() for job in JOBS]


@pytest.fixture(scope="module")
def ran():
    return dict(zip(JOBS, result_in_new_process(run_all), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{'And'.join(job.pair)}-{job.replicas}")
def test_a_pair_does_what_its_two_answers_say_on_one_replica_and_on_two(ran, job):
    pair, replicas = job
    gamma, beta, mean, variance = start_of(pair)
    steps = [batches_of(replicas, step) for step in range(STEPS)]
    history = [rows_of(pair, batches) for batches in steps]
    named = range(len(gamma))

    def populations(number):
        """After so many steps: of each replica and domain."""
        return [
            [
                population_after(pair, history[:number], i, d, (mean[d], variance[d]))
                if number and any(row.domain == d for row in history[0])
                else (mean[d], variance[d])
                for d in named
            ]
            for i in range(replicas)
        ]

    before, after = populations(STEPS - 1), populations(STEPS)
    last, dys, affine = steps[-1], batches_of(replicas, 7), (gamma, beta)
    training = output(pair, last, before, affine, corrections_of(pair, last, before))
    inference = output(pair, steps[0], after, affine, training=False)
    if "Masked" in pair:  # steps that are masked come out as 0, and have no gradient
        dys = [dy * extra_of(pair, dy.shape)["mask"][..., None] for dy in dys]
    dxs = gradients(pair, last, dys, before, affine)
    close = {"rtol": 1e-9, "atol": 1e-9}
    for i, ((y, dx), inferred, state) in enumerate(ran[job]):
        np.testing.assert_allclose(y, training[i], **close)
        np.testing.assert_allclose(dx, dxs[i], rtol=1e-5, atol=2e-6)  # differences of 1e-5
        np.testing.assert_allclose(inferred, inference[i], **close)
        for number, name in enumerate(("moving_mean", "moving_variance")):
            expected = [after[i][d][number] for d in named]
            np.testing.assert_allclose(state[name].reshape(-1, 3), expected, **close, err_msg=name)


@pytest.mark.parametrize("pair", REFUSED, ids="And".join)
@pytest.mark.parametrize("turned", [False, True])
def test_a_pair_that_answers_the_same_question_twice_is_refused_when_it_is_written(pair, turned):
    names = [kind(each).__name__ for each in pair]
    pattern = "|".join(
        [f"{re.escape(a)} (and|with) {re.escape(b)}" for a, b in (names, names[::-1])]
    )
    with pytest.raises(TypeError, match=pattern):
        combined(pair[::-1] if turned else pair)


@pytest.mark.parametrize("pair", [p for p in GO_TOGETHER if p[0] in FIRST], ids="And".join)
def test_what_adds_to_an_answer_is_named_first(pair):
    with pytest.raises(TypeError, match=f"name {kind(pair[0]).__name__} first"):
        combined(pair[::-1])


def test_a_class_that_answers_the_question_itself_may_have_any_parents():
    class Own(layers.GhostBatchNorm, layers.MaskedBatchNorm):
        def batch_moments(self, x, steps=None):
            return layers.BatchNorm.batch_moments(self, x)

    class Further(Own):
        pass

    assert Further(groups=2)(batch_of((4, 3)), training=True).shape == (4, 3)


def test_every_variant_is_in_a_pair():
    assert sorted(kind(name).__name__ for name in ALL) == sorted(set(CASES) - {"BatchNorm"})
    assert len(COMBINED) + len(REFUSED) == len(PAIRS) == 78
