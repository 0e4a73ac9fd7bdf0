"""Whether a layer is called a second time to save memory: what it sees then was remembered."""

import sys

# TensorFlow's function that repeats the forward pass for `tf.recompute_grad`, which is also what
# ``keras.RematScope`` uses. TensorFlow does not say in any other way that it is recomputing.
_FUNCTION = "inner_recompute_grad"
_MODULE = "tensorflow.python.ops.custom_gradient"


def recomputing():
    """Whether `tf.recompute_grad` is repeating a forward pass, in the call that this is part of.

    Looked for among the callers: once for each layer while a graph is traced, and at each call
    otherwise, some microseconds.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == _FUNCTION and frame.f_globals.get("__name__") == _MODULE:
            return True
        frame = frame.f_back
    return False
