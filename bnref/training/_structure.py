"""What a model takes, and what the elements of a data set give."""

import tensorflow as tf


def check_elements(spec, model):
    """Refuse a data set whose elements a model cannot be trained on.

    Parameters
    ----------
    spec : nested tf.TypeSpec
        Of an element: (inputs, targets) or (inputs, targets, weights), each with an axis of
        examples.
    model : keras.Model
        One that does not say what it takes, as a subclass, takes what comes.

    Raises
    ------
    ValueError
        Says what is wanted, and what came.
    """
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        named = f"{len(spec)} in a tuple" if isinstance(spec, tuple) else type(spec).__name__
        raise ValueError(
            "x must give (inputs, targets) or (inputs, targets, weights) for each batch; received "
            f"{named}"
        )
    for name, part in zip(("inputs", "targets", "weights"), spec, strict=False):
        for each in tf.nest.flatten(part):
            if getattr(each, "shape", None) is None or each.shape.rank == 0:
                raise ValueError(
                    f"x must give batches, {name} with an axis of examples; received {each}: batch "
                    "the data set"
                )
    for (name, wanted), found in _pairs(model, spec[0]):
        if not _fits(found.shape, wanted):
            raise ValueError(
                f"x must give batches for the model's input {name!r}, shape "
                f"{_in_words(wanted)}; received shape {_in_words(found.shape)}"
            )


def _pairs(model, inputs):
    """Each input of the model, (name, shape), with the spec of what it would be given."""
    try:
        wanted = [(each.name, tf.TensorShape(each.shape)) for each in tf.nest.flatten(model.inputs)]
    except (AttributeError, ValueError):  # a subclass, or not built
        return []
    names = [name for name, _ in wanted]
    if isinstance(inputs, dict) and len(wanted) > 1:
        if missing := sorted(set(names) - set(inputs)):
            raise ValueError(
                f"x must have the model's inputs {sorted(names)}; received {sorted(inputs)}, "
                f"without {missing[0]!r}"
            )
        return [(each, inputs[each[0]]) for each in wanted]
    found = tf.nest.flatten(inputs)
    if len(found) != len(wanted):
        raise ValueError(
            f"x must have {len(wanted)} inputs, as the model has; received {len(found)}"
        )
    return list(zip(wanted, found, strict=True))


def _fits(found, wanted):
    """Whether the examples have a shape that the input takes; Keras adds an axis of length 1."""
    if found.rank is None or wanted.rank is None:
        return True
    with_axis = found.rank == wanted.rank - 1 and wanted[-1] == 1
    found = found.concatenate([1]) if with_axis else found
    return found.rank == wanted.rank and found[1:].is_compatible_with(wanted[1:])


def _in_words(shape):
    return f"({', '.join(['N', *map(str, shape[1:])])})" if shape.rank else "unknown"
