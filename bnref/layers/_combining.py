"""Which variants may be combined: those that answer different questions."""

QUESTIONS = {
    "batch_moments": "question 1, whose statistics",
    "update_population": "question 2, remembered how",
    "training_moments": "question 3, used when, in training",
    "inference_moments": "question 3, used when, at inference",
}


def extends(hook):
    """Mark a method that takes the answer of the next class and adds to it, by ``super()``.

    Synchronizing is one: it combines over the replicas whatever moments they have.
    """
    hook.extends = True
    return hook


def check_combination(cls, base):
    """Refuse a class whose parents answer the same question, or do not go together.

    Parameters
    ----------
    cls : type
        Just made, a subclass of `base`.
    base : type
        The layer whose answers all classes start from.

    Raises
    ------
    TypeError
        Names the two classes and the question.
    """
    if "normalizing_moments" in vars(cls):
        raise TypeError(
            f"{cls.__name__} overrides normalizing_moments, which is two methods since version "
            "0.2: training_moments and inference_moments"
        )
    parents = [each for each in cls.__mro__ if issubclass(each, base) and each is not base]
    for one in parents:
        for other in vars(one).get("not_with", ()):
            if other in [each.__name__ for each in parents]:
                raise TypeError(
                    f"{cls.__name__} combines {one.__name__} with {other}: {one.not_with[other]}"
                )
    for hook, question in QUESTIONS.items():
        pair = _rivals([each for each in parents if hook in vars(each)], hook)
        if pair:
            one, other = (each.__name__ for each in pair)
            turn = f"name {other} first, " if _adds(pair[1], hook) else ""
            raise TypeError(
                f"{cls.__name__} combines {one} and {other}, which both answer {question}: {turn}"
                f"take one of them, or override {hook} in {cls.__name__}"
            )


def _rivals(answers, hook):
    """A class that overrides the answer of another without inheriting it, and that one; or None."""
    for i, one in enumerate(answers):
        others = [each for each in answers[i + 1 :] if not issubclass(one, each)]
        if not _adds(one, hook):  # the classes after it are not asked
            return (one, others[0]) if others else None
    return None


def _adds(kind, hook):
    return getattr(vars(kind)[hook], "extends", False)
