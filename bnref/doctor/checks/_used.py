"""Question 3, used when: training mode where it should not be, or not where it should."""

import numpy as np

from bnref.doctor.checks import _statistics as statistics
from bnref.doctor.checks._bases import called_with, within
from bnref.doctor.checks._check import Found, Undecided, check, paths
from bnref.doctor.checks._start import at_start


@check(
    3,
    "gallery/pitfalls/plot_training_was_never_told",
    symptoms={"statistics never change": "often", "no better than without batch norm": "often"},
)
def training_never_passed(case):
    """The norms are never told that this is training, so that they normalize by 0 and 1.

    Called as training calls the model, a norm that is trained sees no training, and its population
    is still 0 and 1: a pretrained base that is frozen so on purpose has another one. Keras 3's
    ``fit`` says nothing to a model whose ``call`` does not name ``training``, where
    ``model(x, training=True)`` is heard by every layer within; where the model is not compiled, it
    is not known who will train it.
    """
    by_fit = not case.fit_says_training
    told = (case.untold[0] if by_fit else case.training).told_training
    deaf = [
        norm
        for norm in case.norms
        if norm.trainable
        and norm.built
        and at_start(norm)
        and case.training.of(norm)
        and norm not in told
    ]
    if not deaf:
        return None
    if by_fit and case.optimizer is None:
        return Undecided("call does not name training: fit would say nothing, an own loop may")
    said = "model(x), as fit calls it where call does not name training,"
    evidence = (
        f"{said if by_fit else 'model(x, training=True)'} reaches "
        f"{statistics.many(len(deaf), 'norm')} as training=False, and the population is 0 and 1"
    )
    fix = (
        "def call(self, x, training=None):  # name it, and pass it on\n"
        "    return self.norm(self.dense(x), training=training)"
    )
    return Found(paths(deaf), evidence, fix)


@check(
    3,
    "gallery/pitfalls/plot_exported_in_training_mode",
    symptoms={
        "every prediction is the same": "usual",
        "predictions depend on the batch": "usual",
        "the exported model predicts otherwise": "usual",
        "the saved model predicts differently": "often",
        "statistics change when they should not": "sometimes",
    },
)
def training_at_inference(case):
    """Training mode at inference: a prediction depends on what else is in the batch.

    Called with ``training=False``, a norm sees training, or an example alone gives another output
    than in its batch: by more than a thousandth, where rounding gives some 1e-4. Or a base is
    called with ``training=True`` within the model: in Keras 3 ``predict`` overrides it, which hides
    it, and ``export`` keeps it, as ``model(x)`` does.
    """
    told = list(case.inference.told_training)
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
        return _exported_in_training_mode(case)
    evidence = f"an example alone gives outputs that differ by {difference:.2g} of their deviation"
    if told:
        evidence += f"; {len(set(told))} norms are in training mode in model(x, training=False)"
    fix = (
        "y = self.norm(x, training=training)  # not training=True\n"
        "y = model(x, training=False)         # in the exported function"
    )
    return Found(paths(told or case.norms), evidence, fix)


def _exported_in_training_mode(case):
    """What is right where training=False is said, and wrong where nothing is, as in an export."""
    norms = within(case.untold[0].told_training, called_with(case, True))
    if not norms:
        return None
    evidence = (
        f"a call within the model says training=True: {len(norms)} norms are in training mode in "
        "model(x), which is what export keeps"
    )
    fix = "outputs = base(inputs)  # not training=True within a model; fit says it where it is so"
    return Found(paths(norms), evidence, fix)


@check(
    3,
    "gallery/pitfalls/plot_resizing_turns_training_on",
    symptoms={
        "predictions depend on the batch": "sometimes",
        "the exported model predicts otherwise": "often",
        "statistics change when they should not": "sometimes",
        "every prediction is the same": "seldom",
    },
    unless=["training_at_inference"],
)
def untold_is_training(case):
    """``model(x)`` runs in training mode though nobody says so: an image layer turns it on.

    Keras 3: layers such as ``Resizing`` and ``RandomFlip`` say ``training=True`` where nobody says
    anything, and it leaks to the layers behind them.
    """
    leaking = case.untold[0].told_training
    if not leaking:
        return None
    moved = len(case.untold[1])
    evidence = f"model(x) reaches {statistics.many(len(leaking), 'norm')} as training=True" + (
        f", and moves {statistics.many(moved, 'variable')}" if moved else ""
    )
    return Found(paths(leaking), evidence, "y = model(x, training=False)  # say it, always")


@check(
    3,
    "gallery/pitfalls/plot_testing_moves_the_average",
    symptoms={"statistics change when they should not": "sometimes"},
    unless=["training_at_inference", "untold_is_training"],
)
def moves_at_inference(case):
    """The population moves where nothing is trained."""
    moved = {"model(x)": case.untold[1], "model(x, training=False)": case.first.moved}
    for call, names in moved.items():
        found = [
            norm
            for norm in case.norms
            if norm.built and any(getattr(v, "path", v.name) in names for v in norm.layer.variables)
        ]
        if found:
            moved = statistics.many(len(names), "variable")
            evidence = f"{call} moves {moved}, such as {names[0]}"
            fix = "if training:  # around the update, in the layer's call"
            return Found(paths(found), evidence, fix)
    return None
