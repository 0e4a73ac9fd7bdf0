"""Inputs of shape (N, ..., C) seen as rows, as examples, and under a mask; all checked."""

import tensorflow as tf

from bnref.functional.context import other_replicas

__all__ = ["over_positions"]


def rows(x):
    """``x`` as (examples and positions, C), at least float32, checked."""
    x = not_empty(x)
    return _at_least_float32(tf.reshape(x, (-1, x.shape[-1])))


def not_empty(x):
    """``x``, checked to hold at least one example, unless other replicas may hold some."""
    x = _checked(x)
    if other_replicas():
        return x
    if x.shape.num_elements() == 0:
        raise ValueError(f"x must hold at least one example; received shape {x.shape}")
    if x.shape.num_elements() is not None:
        return x
    # The graph of a batch of any size: only a run can tell. (XLA leaves assertions out.)
    told = tf.debugging.assert_positive(tf.size(x), "x must hold at least one example")
    with tf.control_dependencies([told]):
        return tf.identity(x)


def by_example(x):
    """``x`` as (N, positions, C), at least float32, checked."""
    x = _checked(x)
    return _at_least_float32(tf.reshape(x, (tf.shape(x)[0], -1, x.shape[-1])))


def over_positions(mask, x):
    """``mask`` for every position of ``x``: boolean, of the shape of `x` with one channel."""
    mask, x = tf.convert_to_tensor(mask), tf.convert_to_tensor(x)
    if mask.dtype != tf.bool:
        raise ValueError(f"mask must be boolean; received {mask.dtype.name}")
    rank = mask.shape.rank
    if not 1 <= rank < x.shape.rank or not mask.shape.is_compatible_with(x.shape[:rank]):
        raise ValueError(
            f"mask must have the shape of the first axes of x, without its channels: of {x.shape}; "
            f"received {mask.shape}"
        )
    told = tf.debugging.assert_equal(
        tf.shape(mask), tf.shape(x)[:rank], "mask must have the shape of the first axes of x"
    )
    with tf.control_dependencies([told] if told is not None else []):
        spread = tf.reshape(mask, [*_sizes(x)[:rank], *[1] * (x.shape.rank - rank)])
    return tf.broadcast_to(spread, [*_sizes(x)[:-1], 1])


def check_type(x):
    """Refuse what is not floating point."""
    if not x.dtype.is_floating:
        raise ValueError(f"x must be floating point; received {x.dtype.name}")


def _sizes(x):
    """The sizes of the axes: numbers where they are known, tensors elsewhere."""
    return [size if size is not None else tf.shape(x)[i] for i, size in enumerate(x.shape)]


def _checked(x):
    x = tf.convert_to_tensor(x)
    check_type(x)
    if x.shape.rank is None or x.shape.rank < 2:
        raise ValueError(f"x must have shape (N, ..., C), two axes or more; received {x.shape}")
    return x


def _at_least_float32(x):
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
