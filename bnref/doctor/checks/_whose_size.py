"""Question 1, whose statistics: batches that are too small, on one device and on several."""

import numpy as np

from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._channels import deviation
from bnref.doctor.checks._check import Found, check, paths

WITHOUT_A_BATCH = "model = bnref.norms.convert(model, keras.layers.GroupNormalization, groups=8)"


@check(
    1,
    "gallery/pitfalls/plot_one_value_a_channel",
    symptoms={"every prediction is the same": "often"},
)
def one_value_a_channel(case):
    """A norm has one value a channel in a batch, and puts out β whatever it gets."""
    alone = {}
    for norm in case.followers:
        seen = case.training.of(norm)[0]
        share = together(case, norm, len(seen.means)) / len(seen.means)
        if seen.values * share <= 1:
            alone[norm] = seen.shape, share
    if not alone:
        return None
    (shape, share), *_ = alone.values()
    whose = "" if share == 1 else f", of which statistics are taken in {1 / share:.0f} parts"
    evidence = f"the inputs have the shape {shape}{whose}: one value a channel, whose variance is 0"
    norms = list(alone)
    return Found(paths(norms), evidence, "model.fit(x, y, batch_size=32)  # 16 or more, not 1")


@check(
    1,
    "gallery/variants/plot_batch_size_per_replica",
    symptoms={
        "worse with small batches": "usual",
        "worse on two GPUs": "usual",
        "fine-tuned model collapses": "often",
    },
    unless=["one_value_a_channel"],
)
def small_batches(case):
    """A replica's batch, or a group of it, is so small that its statistics are noise.

    Statistics of N independent values scatter so that training differs from inference by √(3/2N) of
    a deviation: 0.43 at N = 8. N is the number of values that the batch is worth: the positions of
    one image are alike, and count by what the examples' means say. Fewer than 4 examples are too
    few whatever they are worth: two images, worth some 10 values in each layer, lose 8 points of
    CIFAR-10 in the record of the page, four lose 2.
    """
    small = {}
    for norm in case.followers:
        calls = case.training.of(norm)
        examples = len(calls[0].means)
        number = together(case, norm, examples)
        if number < 16:
            count = statistics.effective_count(calls) * number / examples
            if count < 8 or number < 4:
                small[norm] = count, number
    if not small:
        return None
    count, number = min(small.values())
    evidence = (
        f"statistics are taken from {number:.3g} examples at a time, worth {count:.2g} "
        f"independent values where it is worst: a gap of √(3/2N) = {np.sqrt(1.5 / count):.2f} "
        "deviations between training and inference"
    )
    fix = (
        "norm = keras.layers.BatchNormalization(synchronized=True)  # on several replicas; or\n"
        + WITHOUT_A_BATCH
    )
    return Found(paths(small), evidence, fix)


@check(
    1,
    "gallery/pitfalls/plot_accumulated_gradients_are_not_a_large_batch",
    symptoms={"worse with small batches": "often"},
)
def accumulated_gradients(case):
    """Gradients are accumulated over small batches, each normalized by its own statistics."""
    steps = getattr(case.optimizer, "gradient_accumulation_steps", None)
    size = case.batches[0].size
    if not steps or not case.followers or size / case.replicas >= 16:
        return None
    evidence = (
        f"{steps} batches of {size} make one step, and each norm sees {size} examples at a time, "
        f"not {steps * size}"
    )
    fix = (
        "model = bnref.norms.convert(model, bnref.BatchRenorm)  # batches so small, corrected; or\n"
        + WITHOUT_A_BATCH
    )
    return Found(paths(case.followers), evidence, fix)


@check(
    1,
    "gallery/pitfalls/plot_one_value_a_channel",
    symptoms={"NaN or infinity": "sometimes"},
    unless=["one_value_a_channel"],
)
def last_batch_of_one(case):
    """The last batch of an epoch has one example, whose variance is 0."""
    sizes = case.data.sizes
    flat = [n for n in case.followers if case.training.of(n)[0].counts[0] == 1]
    if not case.data.complete or len(sizes) < 2 or sizes[-1] != 1 or not flat:
        return None
    evidence = f"the last of {len(sizes)} batches has 1 example, the others {sizes[0]}"
    return Found(paths(flat), evidence, "dataset = dataset.batch(32, drop_remainder=True)")


def together(case, norm, examples: int) -> float:
    """How many of a batch's examples make one set of statistics: a replica's share, or a group."""
    replicas = 1 if norm.synchronized else case.replicas
    return norm.examples_together(examples / replicas)


def empty_replicas(size: int, replicas: int) -> int:
    """How many replicas get nothing of a batch: TensorFlow gives ⌈size/R⌉ to each, in order."""
    share = -(-size // replicas)
    return replicas - -(-size // share)


@check(
    2,
    "gallery/pitfalls/plot_an_empty_replica_leaves_nan_behind",
    symptoms={"NaN or infinity": "sometimes"},
)
def empty_replica(case):
    """The last batch leaves a replica without an example, and its statistics become NaN.

    Keras 3's own layer alone divides by a count of 0; what is synchronized counts all replicas'.
    """
    last = case.data.sizes[-1]
    empty = empty_replicas(last, case.replicas)
    spoilt = [norm for norm in case.followers if norm.spoilt_without_example]
    if not case.data.complete or not empty or not spoilt:
        return None
    evidence = f"the last batch, of size {last}, leaves {empty} of {case.replicas} replicas empty"
    return Found(paths(spoilt), evidence, "dataset = dataset.batch(64, drop_remainder=True)")


@check(
    2,
    "gallery/pitfalls/plot_the_saved_model_is_the_first_replicas",
    symptoms={"worse on two GPUs": "often", "the saved model predicts differently": "sometimes"},
)
def replicas_differ(case):
    """Each replica remembers its own batches, and only the first one's population is saved."""
    if case.replicas == 1:
        return None
    strategy, apart = case.model.distribute_strategy, {}
    for norm in case.norms:
        if not norm.built:
            continue
        stored = getattr(norm.mean, "value", norm.mean)
        values = np.array([np.asarray(v) for v in strategy.experimental_local_results(stored)])
        spread = np.ptp(values, axis=0) / deviation(norm.variance)
        if spread.max() > 1e-6:
            apart[norm] = float(np.median(spread))
    if not apart:
        return None
    evidence = (
        f"the replicas' means differ by {max(apart.values()):.2g} deviations; "
        "what is read, saved and evaluated is the first one's"
    )
    fix = (
        "model = bnref.norms.convert(model, bnref.SyncBatchNorm)  # or, for this model:\n"
        "bnref.population.recompute(model, batches)"
    )
    return Found(paths(apart), evidence, fix)
