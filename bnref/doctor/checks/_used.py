"""Question 3, used when: training mode where it should not be, or not where it should."""

import numpy as np

from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._check import Found, check, paths
from bnref.doctor.checks._remembered import _at_start


@check(3, "gallery/pitfalls/plot_training_was_never_told")
def training_never_passed(case):
    """The norms are never told that this is training, so that they normalize by 0 and 1.

    Called with ``training=True``, a norm that is trained sees no training, and its population is
    still 0 and 1: a pretrained base that is frozen so on purpose has another one.
    """
    deaf = [
        norm
        for norm in case.norms
        if norm.trainable
        and norm.built
        and _at_start(norm)
        and case.training.of(norm)
        and not any(each.training for each in case.training.of(norm))
    ]
    if not deaf:
        return None
    evidence = (
        f"model(x, training=True) reaches {len(deaf)} norms as training=False, and their "
        "population is 0 and 1"
    )
    fix = (
        "def call(self, x, training=None):  # name it, and pass it on\n"
        "    return self.norm(self.dense(x), training=training)"
    )
    return Found(paths(deaf), evidence, fix)


@check(3, "gallery/pitfalls/plot_exported_in_training_mode")
def training_at_inference(case):
    """Training mode at inference: a prediction depends on what else is in the batch.

    Called with ``training=False``, a norm sees training, or an example alone gives another output
    than in its batch: by more than a thousandth, where rounding gives some 1e-4.
    """
    told = [n for n in case.norms if any(each.training for each in case.inference.of(n))]
    told += [n for n in case.norms if not n.fixed and n.used.count("batch") > 1]
    together = case.inference.outputs[0]
    alone = case.alone
    together = together[: len(alone)]
    if alone.shape != together.shape or alone.dtype.kind != "f":
        difference = 0.0
    else:
        scale = np.std(case.inference.outputs[0]) + 1e-12
        difference = float(np.max(np.abs(alone - together)) / scale)
    if not told and not difference > 1e-3:
        return None
    if not told and not case.norms:
        return None
    evidence = f"an example alone gives outputs that differ by {difference:.2g} of their deviation"
    if told:
        evidence += f"; {len(set(told))} norms are in training mode in model(x, training=False)"
    fix = (
        "y = self.norm(x, training=training)  # not training=True\n"
        "y = model(x, training=False)         # in the exported function"
    )
    return Found(paths(told or case.norms), evidence, fix)


@check(3, "gallery/pitfalls/plot_resizing_turns_training_on", unless=["training_at_inference"])
def untold_is_training(case):
    """``model(x)`` runs in training mode though nobody says so: an image layer turns it on.

    Keras 3: layers such as ``Resizing`` and ``RandomFlip`` say ``training=True`` where nobody says
    anything, and it leaks to the layers behind them.
    """
    leaking = [n for n in case.norms if any(each.training for each in case.untold.of(n))]
    if not leaking:
        return None
    moved = len(case.moved["model(x)"])
    evidence = (
        f"model(x) reaches {len(leaking)} norms as training=True"
        + (f", and moves {moved} variables" if moved else "")
    )
    return Found(paths(leaking), evidence, "y = model(x, training=False)  # say it, always")


@check(3, "gallery/pitfalls/plot_testing_moves_the_average",
       unless=["training_at_inference", "untold_is_training"])  # fmt: skip
def moves_at_inference(case):
    """The population moves where nothing is trained."""
    for call, names in case.moved.items():
        found = [
            norm
            for norm in case.norms
            if norm.built and any(getattr(v, "path", v.name) in names for v in norm.layer.variables)
        ]
        if found:
            evidence = f"{call} moves {len(names)} variables, such as {names[0]}"
            fix = "if training:  # around the update, in the layer's call"
            return Found(paths(found), evidence, fix)
    return None


@check(3, "gallery/pitfalls/plot_training_false_does_not_freeze")
def training_false_overridden(case):
    """``training=False`` in a functional model does not freeze a base that is trainable.

    Keras 3: a call that was written as ``base(x, training=False)`` is told ``training=True`` by
    ``fit``. Only ``trainable = False`` holds its norms.
    """
    bases = {path: layer for path, layer in case.layers if _called_untrained(layer)}
    found = [
        norm
        for norm in case.followers
        if any(norm.path.startswith(f"{path}/") or norm.layer is layer
               for path, layer in bases.items())
    ]  # fmt: skip
    if not found:
        return None
    base = next(iter(bases))
    evidence = (
        f"{base!r} is called with training=False, and in training {len(found)} of its norms are in "
        "training mode all the same: their population moves"
    )
    fix = (
        "for norm in bnref.norms.find(base):\n"
        "    norm.layer.trainable = False\n"
        "model.compile(...)  # once more, so that fit notices"
    )
    return Found(paths(found), evidence, fix)


def _called_untrained(layer):
    """Whether a graph of layers has a call of this layer that says training=False."""
    for node in getattr(layer, "_inbound_nodes", ()):
        arguments = getattr(getattr(node, "arguments", None), "kwargs", {})
        if arguments.get("training", None) is False:
            return True
    return False


@check(3, "gallery/pitfalls/plot_training_false_does_not_freeze")
def frozen_after_compile(case):
    """What is trained was changed after ``compile``: the step was built for other weights.

    The optimizer's list of variables is compared with the model's.
    """
    known = getattr(case.optimizer, "_trainable_variables", None)
    if not known or not getattr(case.optimizer, "built", False):
        return None
    known = {id(each) for each in known}
    now = {id(each) for each in case.model.trainable_variables}
    changed = [
        norm
        for norm in case.norms
        if any(
            id(each) in known and id(each) not in now
            for each in (norm.gamma, norm.beta)
            if each is not None
        )
    ]
    if not changed:
        return None
    evidence = (
        f"γ or β of {len(changed)} norms are with the optimizer, and the layers are frozen now: "
        "fit goes on moving them and the population"
    )
    return Found(paths(changed), evidence, "model.compile(...)  # again, after each change of trainable")


@check(3, "gallery/questions/plot_with_and_without_normalizes_its_logits")
def norm_on_logits(case):
    """A norm stands on the logits, and bounds how sure the model can be."""
    norm = case.on_logits
    if norm is None:
        return None
    gamma = 1.0 if norm.gamma is None else float(np.mean(np.abs(norm.gamma)))
    evidence = (
        f"its outputs are the logits: mean 0 and deviation {gamma:.2g} over the batch, for every class"
    )
    fix = "logits = keras.layers.Dense(classes)(x)  # the last layer, with no norm behind it"
    return Found(paths([norm]), evidence, fix)


@check(3, "gallery/pitfalls/plot_no_gradient_through_the_statistics")
def bias_without_effect(case):
    """A bias before a norm has grown large: no gradient passes through the statistics.

    With the gradient a bias before a norm gets none and stays near where it began; ten deviations
    of the norm's inputs are more than any initializer gives.
    """
    found = {}
    for norm in case.norms:
        bias = getattr(case.source(norm), "bias", None)
        if bias is None or norm not in case.fresh:
            continue
        bias = np.asarray(bias)
        deviation = np.sqrt(case.fresh[norm][1] + 1e-12)
        if bias.shape == deviation.shape and np.median(np.abs(bias) / deviation) > 10:
            found[norm] = float(np.median(np.abs(bias) / deviation))
    if not found:
        return None
    evidence = f"the bias before it is {statistics.number(max(found.values()))} deviations large"
    fix = "x = keras.layers.Dense(64, use_bias=False)(x)  # β does what a bias would\n"
    fix += "x = keras.layers.BatchNormalization()(x)"
    return Found(paths(found), evidence, fix)


@check(3, "gallery/pitfalls/plot_the_one_pass_variance_cancels")
def large_mean(case):
    """The mean is so large against the deviation that a variance taken in one pass cancels.

    E[x²] − E[x]² loses twice the digits of μ/σ: at 100 the fourth of seven, which shows where
    Keras's ``synchronized=True`` uses it; at 1,000 the sixth, which XLA does to any variance.
    """
    found = {}
    for norm, (mean, variance) in case.fresh.items():
        live = variance > 1e-12
        if live.any():
            ratio = float(np.median(np.abs(mean[live]) / np.sqrt(variance[live])))
            if ratio > (100 if norm.synchronized else 1000):
                found[norm] = ratio
    if not found:
        return None
    evidence = f"|μ|/σ of its inputs is {statistics.number(max(found.values()))}"
    fix = "x = (x - x.mean(axis=0)) / x.std(axis=0)  # centre the inputs; or, for the layer:\n"
    fix += "norm = bnref.layers.SyncBatchNorm()  # a variance in two passes"
    return Found(paths(found), evidence, fix)


@check(3, "gallery/pitfalls/plot_half_precision_overflows_and_stands_still")
def variance_overflows(case):
    """The batch's moments overflow, though the inputs of the model are finite.

    In float32, in which every library takes them: above 3e38, which x² passes at 2e19.
    """
    found = [
        norm
        for norm, moments in case.fresh.items()
        if not np.isfinite(np.float32(moments)).all()
    ]
    if not found:
        return None
    dtype = case.training.of(found[0])[0].dtype
    evidence = (
        f"mean or variance of the first norm's inputs ({dtype}) are beyond float32 in training mode"
    )
    return Found(paths(found[:1]), evidence, "x = keras.layers.Rescaling(1 / 255)(x)  # or float32")


@check(3, "learn/what_it_computes", unless=["variance_overflows"])
def dead_channels(case):
    """Channels whose inputs are constant come out as β, whatever the example.

    Constant in every batch, to rounding; more than a fifth of a norm's channels.
    """
    found = {}
    for norm, (mean, variance) in case.fresh.items():
        if case.training.of(norm)[0].count <= 1:
            continue
        dead = variance <= 1e-12 * (np.square(mean) + 1e-12)
        if dead.mean() > 0.2:
            found[norm] = int(dead.sum()), len(dead)
    if not found:
        return None
    dead, channels = max(found.values())
    evidence = f"{dead} of {channels} channels have a variance of 0 in every batch"
    fix = "keras.optimizers.Adam(1e-4)  # a lower rate: units that died in a step do not come back"
    return Found(paths(found), evidence, fix)


@check(3, "gallery/pitfalls/plot_weight_decay_is_a_learning_rate")
def gamma_vanishes(case):
    """γ has shrunk to nothing under weight decay, and with it what the norm passes on.

    Below a hundredth in more than half of the channels, where weights decay; without decay a γ of 0
    is a start that residual networks choose on purpose.
    """
    found = {}
    decays = getattr(case.optimizer, "weight_decay", None)
    if not decays and not any(getattr(n.layer, "gamma_regularizer", None) for n in case.norms):
        return None
    for norm in case.norms:
        if norm.built and norm.gamma is not None:
            small = np.abs(np.asarray(norm.gamma)) < 0.01
            if small.mean() > 0.5:
                found[norm] = int(small.sum()), small.size
    if not found:
        return None
    small, channels = max(found.values())
    evidence = f"|γ| is below 0.01 in {small} of {channels} channels"
    fix = 'optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])'
    return Found(paths(found), evidence, fix)
