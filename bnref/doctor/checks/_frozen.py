"""Question 3, used when: norms that were to be frozen, and are not."""

from bnref.doctor.checks._bases import called_with, within
from bnref.doctor.checks._check import Found, check, paths


@check(
    3,
    "gallery/pitfalls/plot_training_false_does_not_freeze",
    symptoms={
        "fine-tuned model collapses": "usual",
        "statistics change when they should not": "often",
    },
)
def training_false_overridden(case):
    """``training=False`` in a functional model does not freeze a base that is trainable.

    Keras 3: a call that was written as ``base(x, training=False)`` is told ``training=True`` by
    ``fit``. Only ``trainable = False`` holds its norms.
    """
    bases = called_with(case, False)
    found = within(case.followers, bases)
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


@check(
    3,
    "gallery/pitfalls/plot_training_false_does_not_freeze",
    symptoms={"statistics change when they should not": "sometimes"},
)
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
    return Found(
        paths(changed), evidence, "model.compile(...)  # again, after each change of trainable"
    )
