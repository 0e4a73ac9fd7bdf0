"""Question 2, remembered how: what is saved is not all that the model remembers."""

import numpy as np

from bnref.doctor._saving import SAVED, ReloadError, values_of
from bnref.doctor.checks._check import Found, Undecided, check, paths


@check(
    2,
    "gallery/pitfalls/plot_the_statistics_are_not_trainable",
    symptoms={"the saved model predicts differently": "often"},
)
def saved_model_differs(case):
    """The model that is saved and loaded again is another one: not all of it is saved.

    A norm whose γ, β, population, ε, momentum or axis is not what it was, to the bit; or outputs
    for the same examples that differ by more than a thousandth of their deviation. On a processor
    they are the same to the bit, since the same is done to the same numbers; where an accelerator
    chooses another way to convolve, rounding gives some 1e-4. Undecided where the model, asked
    twice, differs from itself by a tenth as much: then something random acts at inference.
    """
    try:
        loaded = case.reloaded
    except ReloadError as error:
        return Undecided(str(error))
    changed = {
        norm: _changed(norm, other) for norm, other in zip(case.norms, loaded.norms, strict=False)
    }
    changed = {norm: what for norm, what in changed.items() if what}
    if len(loaded.norms) != len(case.norms):
        words = f"it has {len(loaded.norms)} norms and not {len(case.norms)}"
    elif changed:
        words = _words(changed, len(case.norms))
    elif loaded.apart <= 1e-3:
        return None
    elif loaded.apart <= 10 * loaded.itself:
        return Undecided("the model answers the same examples differently each time it is asked")
    else:
        words = f"{len(case.norms)} norms have the same γ, β, population, ε, momentum and axis"
    if np.isfinite(loaded.apart):
        outputs = f"the outputs differ by {loaded.apart:.2g} of their deviation"
    else:
        outputs = "the outputs are of another shape, or no numbers where they were"
    evidence = f"after loading, {words}; {outputs}"
    return Found(paths(changed or case.norms), evidence, FIX)


FIX = """\
@keras.saving.register_keras_serializable(package="mine")
class OwnNorm(keras.layers.BatchNormalization):
    def __init__(self, eps=1e-3, **kwargs):
        super().__init__(**{**kwargs, "epsilon": eps})
    def build(self, shape):
        super().build(shape)
        # not a tf.Variable or an array, which are not saved
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False)
    def get_config(self):  # every argument of __init__
        return {**super().get_config(), "eps": self.epsilon}"""


def _changed(norm, loaded):
    """What is not as it was loaded: each with both values, where they are furthest apart."""
    found = {}
    for name, ours in values_of(norm).items():
        theirs = loaded[name]
        if ours.shape != theirs.shape:
            found[name] = ours[0], np.nan
        elif not np.array_equal(ours, theirs, equal_nan=True):
            most = np.argmax(np.nan_to_num(np.abs(ours - theirs), nan=np.inf))
            found[name] = ours[most], theirs[most]
    return found


def _words(changed, norms):
    """In how many norms something has changed, and what the first of them shows."""
    what = [
        f"{SAVED[name]} is {theirs:.3g}, not {ours:.3g}"
        for name, (ours, theirs) in next(iter(changed.values())).items()
    ]
    return f"{len(changed)} of {norms} norms are not what they were, the first: {', '.join(what)}"
