"""
What int8 costs is not batch norm's fault: the converter takes the norm up
==========================================================================

A small convolutional network is converted by TensorFlow Lite, with batch norm and without. Behind a
convolution the norm leaves **no operation** of its own: 3 norms, and as many operations as without
them. The converted model, in float, gives the same answers as the trained one. In int8 it agrees
with it on more than 95 % of the digits, with batch norm, with batch norm folded by hand and without
any. What is lost there is lost by quantization.

.. symptom:: the saved model predicts differently
   :cause: int8 rounds weights and activations; batch norm is a part of the convolution by then
   :check: convert once without ``optimizations``: does the float model agree with the trained one?
   :likelihood: often
   :question: none
"""

import contextlib
import io
import tempfile
import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import folding, training
from bnref_gallery import datasets, models, scale

# %%
# Check
# -----
#
# The names of the operations of a converted model, and its answers. Where ``MUL``, ``ADD``,
# ``SHAPE`` or ``RESHAPE`` stand behind a convolution, a norm was not taken up. Compare the answers
# in float first: if they agree there, and not in int8, then quantization is what to look at.

warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated")
warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")


def converted(folder, images=None):
    """An interpreter of an exported model: in float, or in int8 with ranges of ``images``."""
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
    with contextlib.redirect_stdout(io.StringIO()):  # it lists the inputs and outputs
        content = converter.convert()
    return tf.lite.Interpreter(model_content=content)


def operations(interpreter):
    names = [each["op_name"] for each in interpreter._get_ops_details()]
    return [name for name in names if name not in ("DELEGATE", "QUANTIZE", "DEQUANTIZE")]


def answers(interpreter, images):
    given = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(given, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given, images)
    interpreter.invoke()
    result = interpreter.get_output_details()[0]["index"]
    return np.argmax(interpreter.get_tensor(result), -1)


# %%
# Fix
# ---
#
# Export the model in inference mode, and let the converter do the rest. With a norm that it cannot
# take up, in front of a convolution or behind an activation, fold by hand where that is possible::
#
#     converter = tf.lite.TFLiteConverter.from_keras_model(model)       # the norm is taken up
#     folded = bnref.folding.fold_model(model).model                    # folded by hand
#     converter = tf.lite.TFLiteConverter.from_keras_model(folded)
#
# Why
# ---
#
# At inference the statistics are constants (question 3, *used when*: the population's), so that
# batch norm is a line for each channel, and a line behind a convolution is a convolution: the
# converter multiplies the kernel by γ/√(σ² + ε) before anything is rounded (Jacob et al. 2018,
# arXiv 1712.05877, section 3.2). Only afterwards are kernels rounded to 8 bits, with one scale for
# each channel.
#
# Experiment
# ----------

data = datasets.load("mnist").take(train=3000, test=1000)
# Half as wide and as high.
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
NORMS = {"batch norm": lambda: bnref.BatchNorm(momentum=0.9), "no norm": None}


def network(norm):
    return models.three_convolutions(norm, image_shape=(14, 14, 1), filters=(8, 16, 16))


def trained(seed, norm):
    keras.utils.set_random_seed(seed)
    model = network(norm)
    options = {"optimizer": keras.optimizers.Adam(0.01), "batch_size": 64, "seed": seed}
    training.train(model, x_train, data.y_train, steps=120, **options)
    return model


def tried(model):
    """In float and in int8: right answers, agreement with the trained model, and operations."""
    own = np.argmax(model(x_test, training=False), -1)
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        for interpreter in (converted(folder), converted(folder, x_train[:50])):
            found = answers(interpreter, x_test)
            yield np.mean(found == data.y_test), np.mean(found == own), operations(interpreter)


# %%
# The first model is tried with Keras's layers in place of ours, and folded by hand, too.

trained_models = {
    (name, seed): trained(seed, norm)
    for seed in range(scale.at_scale(quick=2, full=10))
    for name, norm in NORMS.items()
}
normalized = trained_models["batch norm", 0]
trained_models["Keras's batch norm", 0] = network(keras.layers.BatchNormalization)
trained_models["Keras's batch norm", 0].set_weights(normalized.get_weights())
trained_models["folded by hand", 0] = folding.fold_model(normalized).model
exact, rounded = {}, {}
for arm, model in trained_models.items():
    exact[arm], rounded[arm] = tried(model)

# %%
# Accuracy of the models in float, and in int8: one dot a seed.

names = sorted({name for name, _ in rounded})
fig, ax = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
for label, found, color, shift in (("float", exact, "C0", -0.1), ("int8", rounded, "C1", 0.1)):
    accuracies = [each[0] for each in found.values()]
    rows = [names.index(name) + shift for name, _ in found]
    ax.plot(accuracies, rows, "o", color=color, label=label)
ax.set(yticks=range(len(names)), yticklabels=names, xlabel="test accuracy")
ax.invert_yaxis()
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Proof
# -----

for label, found in (("float", exact), ("int8", rounded)):
    for (name, seed), (right, agreement, names_of_operations) in found.items():
        print(f"{label:6} {name:19} seed {seed}: accuracy {right:.3f}, agrees {agreement:.3f}")
        bare = found["no norm", 0][2]
        assert names_of_operations == bare, f"{name}, {label}: an operation more than without"
for (name, _), (_, agreement, _) in exact.items():
    assert agreement > 0.999, f"{name}: the float model answers otherwise"
for (name, seed), (right, agreement, _) in rounded.items():
    own = np.argmax(trained_models[name, seed](x_test, training=False), -1)
    assert agreement > 0.95, f"{name}, {seed}: int8 answers otherwise"
    assert abs(right - np.mean(own == data.y_test)) < 0.03, f"{name}, {seed}: int8 costs more"
