"""Inputs of shape (N, ..., C), and masks of them; all checked."""

import numpy as np
import tensorflow as tf

from bnref.functional._replicas import other_replicas

TensorLike = tf.Tensor | np.ndarray


def checked(x):
    """``x`` as a tensor, floating point and with two axes or more."""
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise ValueError(f"x must be floating point; received {x.dtype.name}")
    if x.shape.rank is None or x.shape.rank < 2:
        raise ValueError(f"x must have shape (N, ..., C), two axes or more; received {x.shape}")
    return x


def not_empty(x):
    """``x``, checked to hold at least one example, unless other replicas may hold some."""
    x = checked(x)
    if other_replicas():
        return x
    if x.shape.num_elements() == 0:
        raise ValueError(f"x must hold at least one example; received shape {x.shape}")
    if x.shape.num_elements() is not None:
        return x
    # In a graph for batches of any size, only a run can tell.
    held = tf.debugging.assert_positive(tf.size(x), "x must hold at least one example")
    return after(held, x)


def after(assertion, x):
    """``x``, computed only after an assertion of ``tf.debugging`` has held.

    In eager mode the assertion has been made already, and is None; XLA leaves it out.
    """
    with tf.control_dependencies([] if assertion is None else [assertion]):
        return tf.identity(x)


def at_least_float32(x):
    """``x`` in the precision of its statistics: float64 if it is, else float32."""
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


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
    same = tf.debugging.assert_equal(
        tf.shape(mask), tf.shape(x)[:rank], "mask must have the shape of the first axes of x"
    )
    spread = tf.reshape(after(same, mask), [*_sizes(x)[:rank], *[1] * (x.shape.rank - rank)])
    return tf.broadcast_to(spread, [*_sizes(x)[:-1], 1])


def _sizes(x):
    """The sizes of the axes: numbers where they are known, tensors elsewhere."""
    return [size if size is not None else tf.shape(x)[i] for i, size in enumerate(x.shape)]
