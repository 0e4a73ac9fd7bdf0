"""Refuses another Keras backend than TensorFlow, before the rest of the package is imported."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "bnref needs Keras's TensorFlow backend; received the backend "
        f"{keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow before Keras is imported"
    )
