"""Tests of the reference's oracles against other implementations, and of where these differ.

Each difference is a test whose name says it. What needs tf_keras runs in one process of its own,
because TF_USE_LEGACY_KERAS must be set before TensorFlow is imported.
"""

import importlib.util
import warnings

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import (
    BETA,
    EPSILON,
    GAMMA,
    assert_all_close,
    batch_of,
    result_in_new_process,
)
from layers_under_test import some_steps

GAMMA, BETA = np.array(GAMMA), np.array(BETA)
CLOSE = {"rtol": 2e-4, "atol": 2e-4}
CLIPS = {"rmax": 1.5, "rmin": 1 / 1.5, "dmax": 0.5}
LIMITS = {"r_max": 1.5, "d_max": 0.5, "epsilon": EPSILON}
# They all start at mean 0 and σ 1; the third channel's first batch is beyond both clips.
BATCHES = [batch_of((6, 3), seed) * np.float32([1, 0.5, 0.2]) for seed in range(4)]


def keras_renorm(momentum=0.6, renorm_momentum=0.6, clips=CLIPS, **options):
    layer = keras.layers.BatchNormalization(
        momentum=momentum, epsilon=EPSILON, renorm=True, renorm_momentum=renorm_momentum,
        renorm_clipping=clips, **options,
    )  # fmt: skip
    layer.build((None, 3))
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    return layer


def averaged(values, momentum, start):
    return reference.exponential_average(values, momentum=momentum, start=start)


def deviations(batches):
    return [np.sqrt(reference.moments(x)[1] + EPSILON) for x in batches]


def means(batches):
    return [reference.moments(x)[0] for x in batches]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_renorm_of_keras_with_equal_momenta_is_the_papers_algorithm(steps):
    """σ itself is averaged, and r and d go by the average before the update, as in the paper."""
    layer, start = keras_renorm(), (np.zeros(3), np.ones(3))
    for k in range(steps):
        x = BATCHES[k]
        before = reference.renorm_population_of_deviations(
            start, BATCHES[:k], momentum=0.6, epsilon=EPSILON
        )
        r, d = reference.renorm_correction(x, *before, **LIMITS)
        expected = reference.batch_renorm(x, GAMMA, BETA, r, d, epsilon=EPSILON)
        np.testing.assert_allclose(layer(x, training=True), expected, **CLOSE)
    mean, sigma = reference.renorm_population_of_deviations(
        start, BATCHES[:steps], momentum=0.6, epsilon=EPSILON
    )
    np.testing.assert_allclose(layer.moving_mean, mean, **CLOSE)
    np.testing.assert_allclose(layer.moving_stddev, sigma, **CLOSE)
    np.testing.assert_allclose(layer.moving_variance, sigma**2 - EPSILON, **CLOSE)
    x = batch_of((4, 3), 9)
    np.testing.assert_allclose(layer(x), GAMMA * (x - mean) / sigma + BETA, rtol=1e-3, atol=1e-3)


def test_renorm_of_keras_has_the_papers_gradient_with_r_and_d_constant():
    layer, x, dy = keras_renorm(), tf.constant(BATCHES[0]), batch_of((6, 3), 5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    watched = [x, layer.gamma.value, layer.beta.value]
    actual = tape.gradient(y, watched, tf.constant(dy))
    r, d = reference.renorm_correction(BATCHES[0], np.zeros(3), np.ones(3), **LIMITS)
    expected = reference.batch_renorm_gradient(dy, BATCHES[0], GAMMA, r, d, epsilon=EPSILON)
    assert_all_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_renorm_of_keras_takes_r_and_d_from_a_second_average_that_is_not_in_the_paper():
    """``renorm_momentum`` weighs it; inference goes by the first, of ``momentum``."""
    layer = keras_renorm(momentum=0.9, renorm_momentum=0.3)
    for x in BATCHES:
        y = layer(x, training=True)
    for each, momentum in (("renorm", 0.3), ("moving", 0.9)):
        mean = averaged(means(BATCHES), momentum, 0)
        sigma = averaged(deviations(BATCHES), momentum, 1)
        np.testing.assert_allclose(getattr(layer, each + "_mean"), mean, **CLOSE)
        np.testing.assert_allclose(getattr(layer, each + "_stddev"), sigma, **CLOSE)
    second = averaged(means(BATCHES[:3]), 0.3, 0), averaged(deviations(BATCHES[:3]), 0.3, 1)
    r, d = reference.renorm_correction(BATCHES[3], *second, **LIMITS)
    expected = reference.batch_renorm(BATCHES[3], GAMMA, BETA, r, d, epsilon=EPSILON)
    np.testing.assert_allclose(y, expected, **CLOSE)
    first = averaged(means(BATCHES[:3]), 0.9, 0), averaged(deviations(BATCHES[:3]), 0.9, 1)
    assert not np.allclose(r, reference.renorm_correction(BATCHES[3], *first, **LIMITS)[0])


def test_renorm_of_keras_starts_sigma_at_one_and_does_not_debias_it():
    """ε is in σ_B but not in the start, which would be √(1 + ε); ours starts there."""
    layer = keras_renorm(clips={})
    np.testing.assert_array_equal(layer.moving_stddev, np.ones(3))
    np.testing.assert_array_equal(layer.renorm_stddev, np.ones(3))
    layer(BATCHES[0], training=True)
    sigma = deviations(BATCHES)[0]
    np.testing.assert_allclose(layer.renorm_stddev, 0.6 + 0.4 * sigma, **CLOSE)


def test_renorm_of_keras_clips_by_constants_and_not_at_all_unless_told():
    unclipped, x = keras_renorm(clips=None), BATCHES[0]
    expected = GAMMA * x + BETA  # by mean 0 and σ 1
    np.testing.assert_allclose(unclipped(x, training=True), expected, **CLOSE)
    one_sided = keras_renorm(clips={"rmax": 1.5})
    r = np.minimum(deviations([x])[0], 1.5)
    expected = reference.batch_renorm(x, GAMMA, BETA, r, means([x])[0], epsilon=EPSILON)
    np.testing.assert_allclose(one_sided(x, training=True), expected, **CLOSE)
    assert np.any(deviations([x])[0] < 1 / 1.5)


def test_renorm_of_keras_takes_sigma_for_at_least_the_root_of_epsilon():
    layer, x = keras_renorm(clips={}), BATCHES[0]
    layer.renorm_stddev.assign(np.full(3, 1e-9))
    expected = GAMMA * x / np.sqrt(EPSILON) + BETA
    np.testing.assert_allclose(layer(x, training=True), expected, **CLOSE)


def test_a_moving_variance_set_by_hand_is_overwritten_by_renorm_of_keras_in_the_next_step():
    """It is derived from ``moving_stddev``, which is what is averaged."""
    layer = keras_renorm()
    layer.moving_variance.assign(np.full(3, 1e6))
    layer(BATCHES[0], training=True)
    sigma = 0.6 + 0.4 * deviations(BATCHES)[0]
    np.testing.assert_allclose(layer.moving_variance, sigma**2 - EPSILON, **CLOSE)


def test_under_a_mask_keras_reads_only_what_is_there_but_normalizes_all_of_it():
    """Its count is 1e-7 more than ours, and the steps that are not there come out as a line of what
    stands there instead of as 0."""
    x, mask = batch_of((6, 4, 3)), some_steps((6, 4))
    layer = keras.layers.BatchNormalization(momentum=0.6, epsilon=EPSILON)
    y = layer(x, training=True, mask=tf.constant(mask)).numpy()
    expected = reference.masked_batch_norm(x, mask, 1, 0, epsilon=EPSILON)
    np.testing.assert_allclose(y[mask], expected[mask], **CLOSE)
    all_of_it = reference.normalized_by(*reference.moments(x[mask]), x, 1, 0, epsilon=EPSILON)
    np.testing.assert_allclose(y, all_of_it, **CLOSE)
    assert np.all(y[~mask] != 0)
    mean, variance = reference.moments(x[mask])
    np.testing.assert_allclose(layer.moving_mean, 0.4 * mean, **CLOSE)
    np.testing.assert_allclose(layer.moving_variance, 0.6 + 0.4 * variance, **CLOSE)


def fused(x, **options):
    """tf.compat.v1.nn.fused_batch_norm on rows; its outputs as rows and vectors."""
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x[:, None, None], GAMMA.astype("float32"), BETA.astype("float32"), epsilon=EPSILON,
        is_training=True, **options,
    )  # fmt: skip
    return tf.squeeze(y, [1, 2]).numpy(), mean.numpy(), variance.numpy()


def test_fused_batch_norm_normalizes_by_the_biased_variance_and_returns_the_corrected_one():
    x = BATCHES[0]
    y, mean, variance = fused(x)
    np.testing.assert_allclose(y, reference.batch_norm(x, GAMMA, BETA, epsilon=EPSILON), **CLOSE)
    expected_mean, biased = reference.moments(x)
    np.testing.assert_allclose(mean, expected_mean, **CLOSE)
    np.testing.assert_allclose(variance, 6 / 5 * biased, **CLOSE)
    np.testing.assert_allclose([mean, variance], reference.precise_corrected([x]), **CLOSE)


def test_the_exponential_avg_factor_of_fused_batch_norm_weighs_the_new_value():
    x, old = BATCHES[0], (np.float32([1, 2, 3]), np.float32([4, 5, 6]))
    _, mean, variance = fused(x, mean=old[0], variance=old[1], exponential_avg_factor=0.1)
    new_mean, biased = reference.moments(x)
    np.testing.assert_allclose(mean, 0.9 * old[0] + 0.1 * new_mean, **CLOSE)
    np.testing.assert_allclose(variance, 0.9 * old[1] + 0.1 * 6 / 5 * biased, **CLOSE)


KINDS = pytest.mark.parametrize("kind", ["v1", "v2"], ids=["tf.compat.v1.layers", "tf_keras"])


def results_of_legacy_layers():
    """Outputs and variables by name; ``tf.keras`` is tf_keras here."""
    warnings.simplefilter("ignore")
    kinds = {"v1": tf.compat.v1.layers.BatchNormalization, "v2": tf.keras.layers.BatchNormalization}
    x, out = BATCHES[0], {}

    def keep(name, layer, y):
        out[name + "/y"] = np.array(y)
        for each in layer.variables:
            out[name + "/" + each.name.split("/")[-1][:-2]] = each.numpy().reshape(-1)

    for kind, make in kinds.items():
        layer = make(momentum=0.6, epsilon=EPSILON, virtual_batch_size=2)
        keep(kind + "/virtual", layer, layer(x, training=True))
        out[kind + "/virtual/inferred"] = layer(x[:5], training=False).numpy()
        for fused in (True, False):
            layer = make(momentum=0.6, epsilon=EPSILON, fused=fused)
            keep(f"{kind}/fused {fused}", layer, layer(x[:, None, None], training=True))
        layer = make(momentum=0.6, epsilon=EPSILON)
        keep(kind + "/rows", layer, layer(x, training=True))
        for name, second in (("equal", 0.6), ("other", 0.3)):
            layer = make(
                momentum=0.6, epsilon=EPSILON, renorm=True, renorm_momentum=second,
                renorm_clipping=CLIPS,
            )  # fmt: skip
            for number, batch in enumerate(BATCHES):
                keep(f"{kind}/renorm {name}/{number}", layer, layer(batch, training=True))
    return out


@pytest.fixture(scope="module")
def legacy():
    """What the layers of TensorFlow 1 and of tf_keras give, by name."""
    if importlib.util.find_spec("tf_keras") is None:
        pytest.skip("tf_keras is not installed: pip install '.[gallery]'")
    environment = {"TF_USE_LEGACY_KERAS": "1"}
    return result_in_new_process(results_of_legacy_layers, environment=environment)


def interleaved(x, groups):
    """The examples that tf_keras puts together, one group after the other."""
    return np.concatenate([x[g::groups] for g in range(groups)])


@pytest.mark.slow
@KINDS
def test_virtual_batches_of_tf_keras_are_interleaved_not_consecutive(legacy, kind):
    """Of 6 examples in batches of 2, example j goes with j + 3: a reshape to (size, groups)."""
    y, x = legacy[f"{kind}/virtual/y"], BATCHES[0]
    expected = reference.ghost_batch_norm(interleaved(x, 3), 1, 0, groups=3, epsilon=EPSILON)
    np.testing.assert_allclose(interleaved(y, 3), expected, **CLOSE)
    consecutive = reference.ghost_batch_norm(x, 1, 0, groups=3, epsilon=EPSILON)
    assert np.max(np.abs(y - consecutive)) > 0.5


@pytest.mark.slow
@KINDS
def test_virtual_batches_of_tf_keras_are_remembered_as_ours_in_one_update_by_their_mean(
    legacy, kind
):
    start, options = (np.zeros(3), np.ones(3)), {"groups": 3, "momentum": 0.6}
    x = interleaved(BATCHES[0], 3)
    mean, variance = reference.ghost_population(start, [x], sequential=False, **options)
    np.testing.assert_allclose(legacy[f"{kind}/virtual/moving_mean"], mean, **CLOSE)
    np.testing.assert_allclose(legacy[f"{kind}/virtual/moving_variance"], variance, **CLOSE)
    in_sequence = reference.ghost_population(start, [x], sequential=True, **options)
    assert not np.allclose(mean, in_sequence[0], rtol=0.05)
    expected = reference.normalized_by(mean, variance, BATCHES[0][:5], 1, 0, epsilon=EPSILON)
    np.testing.assert_allclose(legacy[f"{kind}/virtual/inferred"], expected, **CLOSE)


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("fused, factor", [("True", 6 / 5), ("False", 1)])
def test_only_the_fused_layer_of_tf_keras_remembers_the_corrected_variance(
    legacy, kind, fused, factor
):
    mean, biased = reference.moments(BATCHES[0])
    name = f"{kind}/fused {fused}/"
    np.testing.assert_allclose(legacy[name + "moving_mean"], 0.4 * mean, **CLOSE)
    np.testing.assert_allclose(legacy[name + "moving_variance"], 0.6 + 0.4 * factor * biased, 2e-5)
    expected = reference.batch_norm(BATCHES[0], 1, 0, epsilon=EPSILON)
    np.testing.assert_allclose(legacy[name + "y"][:, 0, 0], expected, **CLOSE)


@pytest.mark.slow
@KINDS
def test_vectors_are_not_fused_and_remember_the_biased_variance(legacy, kind):
    biased = reference.moments(BATCHES[0])[1]
    np.testing.assert_allclose(legacy[f"{kind}/rows/moving_variance"], 0.6 + 0.4 * biased, 2e-5)


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("name, momentum", [("equal", 0.6), ("other", 0.3)])
def test_renorm_of_tf_keras_is_that_of_keras_after_every_step(legacy, kind, name, momentum):
    layer = keras_renorm(renorm_momentum=momentum)
    layer.gamma.assign(np.ones(3))
    layer.beta.assign(np.zeros(3))
    for number, x in enumerate(BATCHES):
        prefix = f"{kind}/renorm {name}/{number}/"
        np.testing.assert_allclose(legacy[prefix + "y"], layer(x, training=True), **CLOSE)
        for variable in layer.variables:
            actual = legacy[prefix + variable.name]
            np.testing.assert_allclose(actual, variable, err_msg=variable.name, **CLOSE)
