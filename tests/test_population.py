"""Tests of bnref.population: Precise BN and its estimators."""

import keras
import numpy as np
import pytest
import reference
from helpers import assert_same_values, values
from hypothesis import given
from hypothesis import strategies as st

from bnref import BatchNorm, BatchRenorm, DomainBatchNorm, GhostBatchNorm
from bnref.layers import CumulativeBatchNorm, DebiasedBatchNorm
from bnref.population import corrected, pooled, recompute

BOTH = pytest.mark.parametrize(
    "variance, expected",
    [("pooled", reference.precise_pooled), ("corrected", reference.precise_corrected)],
)

SCALES = np.array([2.0, -1.0, 0.5], "float32")
rescaled = keras.layers.Rescaling(SCALES.tolist())


def counts_and_moments(batches):
    means, variances = zip(*map(reference.moments, batches), strict=True)
    counts = np.array([each.size / each.shape[-1] for each in batches])
    return counts, np.array(means), np.array(variances)


def assert_population(layer, expected, rtol=1e-5):
    np.testing.assert_allclose(layer.moving_mean, expected[0], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(layer.moving_variance, expected[1], rtol=rtol)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    st.floats(0, 4),
    st.integers(0, 2**32 - 1),
)
def test_pooled_moments_do_not_depend_on_how_the_examples_are_split(sizes, digits, seed):
    """Channels of scale 1, 10 and 0.1, up to 10⁴ of their deviations from zero."""
    random, scale = np.random.default_rng(seed), np.array([1.0, 10.0, 0.1])
    x = (random.normal(size=(sum(sizes), 3)) + [10**digits, -(10**digits), 0]) * scale
    mean, variance = pooled(*counts_and_moments(np.split(x, np.cumsum(sizes)[:-1])))
    # Float64's 16 digits, less the 4 of the mean; its error adds as a square, so not twice.
    np.testing.assert_allclose(mean, np.mean(x, 0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(variance, np.var(x, 0), rtol=1e-10, atol=1e-18)


def test_pooled_moments_equal_the_papers_one_pass_form_over_all_examples(batch):
    batches = [batch((size, 3), size, "float64") for size in (2, 9, 5)]
    for actual, expected in zip(
        pooled(*counts_and_moments(batches)), reference.precise_pooled(batches), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_corrected_moments_are_those_of_the_paper_whatever_the_sizes(batch):
    batches = [batch((size, 3), size, "float64") for size in (2, 9, 5)]
    for actual, expected in zip(
        corrected(*counts_and_moments(batches)), reference.precise_corrected(batches), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_corrected_moments_refuse_a_batch_of_one_value_a_channel(batch):
    with pytest.raises(ValueError, match="variance='corrected' divides by n − 1; a batch had one"):
        corrected(*counts_and_moments([batch((5, 3)), batch((1, 3))]))


def two_norms(first=BatchNorm, second=BatchNorm):
    """Normalization, dense layer, normalization: every population starts at what is not the data's
    and every γ and β at what matters."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            first(name="first", momentum=0.5, epsilon=0.02),
            keras.layers.Dense(4, activation="tanh", name="dense"),
            second(name="second", momentum=0.5, epsilon=0.02),
        ]
    )
    random = np.random.default_rng(8)
    for each in model.variables:
        if each.dtype == "float32":
            each.assign(random.uniform(0.5, 2, each.shape))
    return model


def second_inputs(model, batches):
    """What the second norm layer of `two_norms` is given in training mode."""
    gamma, beta = (np.array(each, "float64") for each in model.get_layer("first").weights[:2])
    kernel, bias = (np.array(each, "float64") for each in model.get_layer("dense").weights)
    return [
        np.tanh(reference.batch_norm(x, gamma, beta, epsilon=0.02) @ kernel + bias) for x in batches
    ]


@BOTH
@pytest.mark.parametrize("kind", [BatchNorm, CumulativeBatchNorm, DebiasedBatchNorm])
def test_recomputed_populations_are_the_closed_form_and_all_else_is_untouched(
    batch, variance, expected, kind
):
    """Unequal batches, which `pooled` weighs by their sizes; deeper layers see batch statistics in
    the layers before them, not the population that is being replaced."""
    model, batches = two_norms(kind, kind), [batch((size, 3), size) for size in (4, 9, 2)]
    inputs = {"first": batches, "second": second_inputs(model, batches)}
    before = {each.path: each.numpy() for each in model.variables}
    assert recompute(model, batches, variance=variance) == 2
    for name, seen in inputs.items():
        assert_population(model.get_layer(name), expected(seen), rtol=1e-4)
    for each in model.variables:
        if not each.name.startswith("moving"):
            np.testing.assert_array_equal(each, before[each.path])


def test_recomputing_is_by_pooling_unless_told_otherwise(batch):
    model, batches = two_norms(), [batch((size, 3), size) for size in (4, 9)]
    recompute(model, iter(batches))
    assert_population(model.get_layer("first"), reference.precise_pooled(batches))


@BOTH
def test_recomputing_keeps_its_digits_at_a_mean_of_ten_thousand_deviations(
    batch, variance, expected
):
    model = keras.Sequential([keras.Input((3,)), BatchNorm()])
    x = (batch((40, 3)) / [0.5, 1.5, 4.5] + [1e4, -1e4, 0]).astype("float32")
    batches = np.split(x, [10, 17])
    recompute(model, batches, variance=variance)
    assert_population(model.layers[0], expected(batches), rtol=2e-3)


def test_positions_count_as_examples(batch):
    model = keras.Sequential([keras.Input((None, 2, 3)), BatchNorm()])
    batches = [batch((2, 4, 2, 3), 1), batch((2, 1, 2, 3), 2)]
    recompute(model, batches)
    assert_population(model.layers[0], reference.precise_pooled(batches))


def test_frozen_layers_keep_their_population_and_pass_on_what_they_normalize_by_it(batch):
    model, batches = two_norms(), [batch((4, 3)), batch((9, 3), 1)]
    frozen, dense, live = model.layers
    frozen.trainable = False
    before = [each.numpy() for each in frozen.weights]
    assert recompute(model, batches) == 1
    for each, value in zip(frozen.weights, before, strict=True):
        np.testing.assert_array_equal(each, value)
    passed_on = [
        reference.normalized_by(before[2], before[3], x, *before[:2], epsilon=0.02) for x in batches
    ]
    kernel, bias = (np.array(each) for each in dense.weights)
    expected = reference.precise_pooled([np.tanh(each @ kernel + bias) for each in passed_on])
    assert_population(live, expected, rtol=1e-4)


def test_layers_of_nested_models_and_inside_layers_are_found(batch):
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = BatchNorm(name="inside")

        def call(self, x, training=False):
            return self.norm(x, training=training)

    nested = keras.Sequential([keras.Input((3,)), BatchNorm(name="nested")])
    block = Block()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, block(rescaled(nested(inputs))))
    batches = [batch((4, 3)), batch((9, 3), 1)]
    assert recompute(model, batches) == 2
    assert_population(nested.layers[0], reference.precise_pooled(batches))
    scaled = [reference.batch_norm(x, 1, 0, epsilon=1e-3) * SCALES for x in batches]
    assert_population(block.norm, reference.precise_pooled(scaled), rtol=1e-4)


def test_a_shared_layer_has_the_statistics_of_all_its_calls(batch):
    shared, inputs = BatchNorm(), keras.Input((3,))
    model = keras.Model(inputs, [shared(inputs), shared(rescaled(inputs))])
    batches = [batch((4, 3)), batch((9, 3), 1)]
    assert recompute(model, batches) == 1
    seen = [x * factor for x in batches for factor in (1, SCALES)]
    assert_population(shared, reference.precise_pooled(seen))


def poisoned(batch):
    x = batch((4, 3), 3)
    x[1, 2] = np.nan
    return x


def raising(batch):
    yield batch((4, 3))
    yield batch((9, 3), 1)
    raise OSError("no more data")


@pytest.mark.parametrize(
    "batches, error, message",
    [
        (raising, OSError, "no more data"),
        (lambda batch: [batch((4, 3)), poisoned(batch)], ValueError, "not finite in layer 'first'"),
        (lambda batch: [batch((4, 3)), batch((4, 5))], ValueError, "incompatible|expected axis -1"),
        (lambda batch: [], ValueError, "batches must hold at least one batch; received none"),
        (lambda batch: iter([]), ValueError, "batches must hold at least one batch"),
    ],
    ids=["raises", "NaN", "other channels", "none", "an empty iterator"],
)
def test_bad_batches_leave_the_model_as_it_was_and_able_to_train(batch, batches, error, message):
    model = two_norms()
    before = values(model)
    with pytest.raises(error, match=message):
        recompute(model, batches(batch))
    assert_same_values(model, before)

    first, x = model.get_layer("first"), batch((6, 3), 9)
    old = np.array(first.moving_mean), np.array(first.moving_variance)
    model(x, training=True)
    expected = [(a + b) / 2 for a, b in zip(old, reference.moments(x), strict=True)]
    assert_population(first, expected)


def test_a_recomputed_model_updates_its_population_again_in_training(batch):
    model, x = two_norms(), batch((6, 3), 9)
    recompute(model, [batch((4, 3))])
    first = model.get_layer("first")
    old = np.array(first.moving_mean), np.array(first.moving_variance)
    model(x, training=True)
    expected = [(a + b) / 2 for a, b in zip(old, reference.moments(x), strict=True)]
    assert_population(first, expected)


@pytest.mark.filterwarnings("ignore:layer .*one value a channel")
def test_corrected_recomputing_of_single_examples_is_refused_and_changes_nothing(batch):
    model = two_norms()
    before = values(model)
    with pytest.raises(ValueError, match="variance='corrected' divides by n − 1"):
        recompute(model, [batch((4, 3)), batch((1, 3))], variance="corrected")
    assert_same_values(model, before)


@pytest.mark.parametrize("variance", ["biased", None, "Pooled"])
def test_an_unknown_variance_is_refused_before_any_batch_is_read(batch, variance):
    batches = iter([batch((4, 3))])
    message = rf"variance must be one of \['corrected', 'pooled'\]; received {variance!r}"
    with pytest.raises(ValueError, match=message):
        recompute(two_norms(), batches, variance=variance)
    assert len(list(batches)) == 1


def frozen_norms():
    model = two_norms()
    for layer in model.layers:
        layer.trainable = False
    return model


def no_norm():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    "make, message",
    [
        (frozen_norms, "model must have a batch norm that updates its population; found none"),
        (no_norm, "model must have a batch norm; found none"),
    ],
)
def test_a_model_without_a_norm_to_replace_is_refused(batch, make, message):
    with pytest.raises(ValueError, match=message):
        recompute(make(), [batch((4, 3))])


def test_the_parts_of_a_ghost_layers_batches_are_pooled_one_by_one(batch):
    """Pooled, they are the whole batch's: the variance between the parts is no longer missing."""
    layer = GhostBatchNorm(groups=2)
    model, batches = keras.Sequential([keras.Input((3,)), layer]), [batch((4, 3)), batch((8, 3), 5)]
    recompute(model, batches)
    assert_population(layer, reference.precise_pooled(batches))
    parts = [part for x in batches for part in reference.parts(x, 2)]
    recompute(model, batches, variance="corrected")
    assert_population(layer, reference.precise_corrected(parts))


@BOTH
def test_renormalization_is_recomputed_from_its_batches_and_counts_no_step(
    batch, variance, expected
):
    layer = BatchRenorm(r_max=1.5, d_max=0.5)
    model, batches = keras.Sequential([keras.Input((3,)), layer]), [batch((4, 3)), batch((9, 3), 5)]
    model(batches[0], training=True)
    recompute(model, batches, variance=variance)
    assert_population(layer, expected(batches))
    assert int(layer.steps) == 1


def domain_model():
    inputs = keras.Input((3,), name="x"), keras.Input((), dtype="int32", name="domain")
    layer = DomainBatchNorm(domains=2)
    return keras.Model(inputs, layer(inputs[0], domain=inputs[1])), layer


def test_each_domain_is_recomputed_from_its_own_examples_wherever_they_are(batch):
    """The second batch holds none of domain 0, and the first one of domain 1."""
    model, layer = domain_model()
    batches = [batch((6, 3)), batch((4, 3), 5)]
    domains = [np.array([0, 0, 1, 0, 0, 0]), np.array([1, 1, 1, 1])]
    recompute(model, list(zip(batches, domains, strict=True)))
    for k in range(2):
        own = [x[d == k] for x, d in zip(batches, domains, strict=True) if (d == k).any()]
        mean, variance = reference.precise_pooled(own)
        np.testing.assert_allclose(layer.moving_mean[k], mean, rtol=1e-5)
        np.testing.assert_allclose(layer.moving_variance[k], variance, rtol=1e-5)


def test_a_domain_that_no_batch_holds_is_refused_and_nothing_changes(batch):
    model, layer = domain_model()
    before = values(model)
    with pytest.raises(ValueError, match=f"not finite in layer '{layer.name}'"):
        recompute(model, [(batch((4, 3)), np.ones(4, "int32"))])
    assert_same_values(model, before)


def test_an_update_of_the_callers_own_is_put_back(batch):
    model = keras.Sequential([keras.Input((3,)), BatchNorm()])
    own = lambda moments: None  # noqa: E731
    model.layers[0].update_population = own
    recompute(model, [batch((8, 3))])
    assert model.layers[0].update_population is own
