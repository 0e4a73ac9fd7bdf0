"""What a run is trained on: arrays that are drawn from, or a ``tf.data`` pipeline."""

import tensorflow as tf

from bnref._checks import whole_number
from bnref.training._batches import check_data, drawn, number_of_examples
from bnref.training._pipelines import Pipeline


def source_of(model, x, y, sample_weight, *, batch_size, carry, seed, accumulate):
    """The `Arrays` or the `Pipeline` that was given, after a look at what goes with it.

    Raises
    ------
    ValueError
        An argument out of range, or one that does not go with the others.
    """
    whole_number("seed", seed, least=0)
    if not is_pipeline(x):
        return Arrays(
            x, y, sample_weight, batch_size=batch_size, carry=carry, seed=seed,
            accumulate=accumulate,
        )  # fmt: skip
    refuse_beside_a_pipeline(y=y, sample_weight=sample_weight, batch_size=batch_size)
    return Pipeline(x, model, accumulate=accumulate)


def is_pipeline(x):
    """Whether it is a ``tf.data.Dataset`` or a function that gives one, and not arrays."""
    return isinstance(x, tf.data.Dataset) or callable(x)


def refuse_beside_a_pipeline(**given):
    """Refuse arguments that say of arrays what a data set says itself."""
    if named := [name for name, value in given.items() if value is not None]:
        raise ValueError(
            f"{named[0]} must not be given with a tf.data.Dataset, which has it in its elements, "
            f"the batches; received {type(given[named[0]]).__name__}"
        )


class Arrays:
    """Arrays in memory, or what is indexed like them, with the order of their examples.

    Parameters and errors are those of `bnref.training.Run.train`.
    """

    # Its batches come whole, and each replica takes its part.
    shared = False

    def __init__(self, x, y, sample_weight, *, batch_size, carry, seed, accumulate):
        whole_number("batch_size", batch_size)
        check_data(x, y, sample_weight, batch_size=batch_size)
        self.data = (x, y) if sample_weight is None else (x, y, sample_weight)
        size = number_of_examples(*self.data)
        smallest = batch_size if carry else size % batch_size or batch_size
        if accumulate > smallest:
            raise ValueError(
                f"accumulate must be at most {smallest}, the smallest batch; received {accumulate}"
            )
        self.settings = {
            "seed": int(seed),
            "batch_size": int(batch_size),
            "carry": bool(carry),
            "number of examples": size,
        }

    def steps(self, steps):
        """The number of steps, which arrays do not say."""
        return steps

    def batches(self, *, start):
        """Global batches without end, from the step after ``start`` on."""
        keys = ("seed", "batch_size", "carry")
        return drawn(self.data, start=start, **{key: self.settings[key] for key in keys})
