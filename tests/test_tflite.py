"""What TensorFlow Lite's converter makes of a norm: nothing, behind a layer that can take it up."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import batch_of, since_keras

from bnref import layers

# A layer before the norm, and the shape of its input.
BEFORE = {
    "Dense": (lambda: keras.layers.Dense(3), (4,)),
    "Conv1D": (lambda: keras.layers.Conv1D(3, 2), (6, 4)),
    "Conv2D": (lambda: keras.layers.Conv2D(3, 2), (6, 6, 4)),
    "DepthwiseConv2D": (lambda: keras.layers.DepthwiseConv2D(2), (6, 6, 3)),
}
FIXED_LINES = [
    "BatchNorm", "BatchRenorm", "CumulativeBatchNorm", "DebiasedBatchNorm", "FrozenBatchNorm",
    "GhostBatchNorm", "LasagneBatchNorm", "MaskedBatchNorm", "PooledBatchNorm",
    "ReplicaMeanBatchNorm", "SyncBatchNorm",
]  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    # TensorFlow says that its interpreter moves to another package.
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated"),
    # The converter's own, of any model that is given and gives back float32.
    pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected"),
]


def model_of(before, norm):
    make, shape = BEFORE[before]
    model = keras.Sequential([keras.Input(shape), make(), *([norm] if norm else [])])
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def converted(model, *, int8=False):
    """The interpreter of the converted model, and the names of its operations."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if int8:
        shape = (1, *model.input_shape[1:])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([batch_of(shape, i)] for i in range(20))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    names = [each["op_name"] for each in interpreter._get_ops_details()]
    return interpreter, [name for name in names if name != "DELEGATE"]


def inferred(interpreter, x):
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(result["index"])


@pytest.mark.parametrize("before", BEFORE)
def test_it_leaves_no_operation_of_its_own_and_keeps_the_numbers(before):
    _, alone = converted(model_of(before, None))
    _, theirs = converted(model_of(before, keras.layers.BatchNormalization()))
    model = model_of(before, layers.BatchNorm())
    interpreter, ours = converted(model)
    assert ours == theirs == alone
    x = batch_of((1, *BEFORE[before][1]))
    np.testing.assert_allclose(inferred(interpreter, x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("before", BEFORE)
def test_int8_leaves_none_either(before):
    _, alone = converted(model_of(before, None), int8=True)
    _, ours = converted(model_of(before, layers.BatchNorm()), int8=True)
    assert ours == alone


@pytest.mark.parametrize("name", FIXED_LINES)
def test_every_layer_that_is_a_fixed_line_at_inference_is_taken_up(name):
    options = {"groups": 2} if name == "GhostBatchNorm" else {}
    _, ours = converted(model_of("Dense", getattr(layers, name)(**options)))
    assert ours == ["FULLY_CONNECTED"]


@since_keras(3, 15, "no export to LiteRT, or to a path that is text alone")
def test_keras_exports_a_model_with_an_image_layer_at_inference(tmp_path):
    """And not in training mode, as a SavedModel: one example alone would come out as β there."""
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Resizing(4, 4), norm])
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    x = np.ones((1, 4, 4, 1), "float32")
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    np.testing.assert_allclose(inferred(interpreter, x), model.predict(x, verbose=0), rtol=1e-4)
