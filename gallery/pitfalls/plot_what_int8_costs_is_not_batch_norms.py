"""
What int8 costs is not batch norm's fault: the converter takes the norm up
==========================================================================

A small convolutional network is converted by TensorFlow Lite, with batch norm and without. Behind a
convolution the norm leaves **no operation** of its own: 3 norms, and as many operations as without
them. The converted model, in float, gives the same answers as the trained one. In int8 it agrees
with it on more than 95 % of the digits, with batch norm, with batch norm folded by hand and without
any. What is lost there is lost by quantization.

.. symptom:: the exported model predicts otherwise
   :cause: int8 rounds weights and activations; batch norm is a part of the convolution by then
   :check: convert once without ``optimizations``: does the float model agree with the trained one?
   :likelihood: often
   :question: none
"""

import contextlib
import io
import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import datasets, devices, folding, models, training

# %%
# Check
# -----
#
# The names of the operations of a converted model, and its answers. Where ``MUL``, ``ADD``,
# ``SHAPE`` or ``RESHAPE`` stand behind a convolution, a norm was not taken up. Compare the answers
# in float first: if they agree there, and not in int8, then quantization is what to look at.

warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated")
warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")


def converted(model, images=None):
    """An interpreter: in float, or in int8 with ranges taken from ``images``."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
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
#     converter = tf.lite.TFLiteConverter.from_keras_model(model)          # the norm is taken up
#     converter = tf.lite.TFLiteConverter.from_keras_model(fold_model(model))    # folded by hand
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
NORMS = {
    "batch norm": lambda: bnref.BatchNorm(momentum=0.9),
    "Keras's batch norm": lambda: keras.layers.BatchNormalization(momentum=0.9),
    "no norm": None,
}


def trained(seed, norm):
    keras.utils.set_random_seed(seed)
    model = models.three_convolutions(norm, image_shape=(28, 28, 1), filters=(8, 16, 16))
    options = {"optimizer": keras.optimizers.Adam(0.01), "batch_size": 64, "seed": seed}
    training.train(model, data.x_train, data.y_train, steps=120, **options)
    return model


def tried(model):
    """Of the trained model, of the float one and of int8: right answers; and the operations."""
    own = np.argmax(model.predict(data.x_test, verbose=0), -1)
    exact, rounded = converted(model), converted(model, data.x_train[:50])
    found = [own, answers(exact, data.x_test), answers(rounded, data.x_test)]
    right = [np.mean(each == data.y_test) for each in found]
    agree = [np.mean(each == own) for each in found]
    return right, agree, operations(exact), operations(rounded)


results = {}
for seed in range(devices.at_scale(quick=3, full=10)):
    for name, norm in NORMS.items():
        model = trained(seed, norm)
        results[name, seed] = tried(model)
        if name == "batch norm":
            results["folded by hand", seed] = tried(folding.fold_model(model))
arms = dict.fromkeys(name for name, _ in results)
seeds = sorted({seed for _, seed in results})

# %%
# Accuracy of the trained model, and of what is converted from it: one dot a seed.

fig, ax = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
for row, arm in enumerate(arms):
    for shift, label, color in ((-0.2, "trained", "C0"), (0, "float", "C2"), (0.2, "int8", "C1")):
        column = ("trained", "float", "int8").index(label)
        values = [results[arm, seed][0][column] for seed in seeds]
        ax.plot(
            values, [row + shift] * len(seeds), "o", color=color, label=label if not row else ""
        )
ax.set(yticks=range(len(arms)), yticklabels=list(arms), xlabel="test accuracy")
ax.invert_yaxis()
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# Proof
# -----

for arm in arms:
    right = np.mean([results[arm, seed][0] for seed in seeds], 0)
    print(f"{arm:19} trained, float, int8: {right.round(3)}", *results[arm, 0][2])
plain = results["no norm", 0]
for (arm, seed), (right, agree, exact, rounded) in results.items():
    assert exact == plain[2], f"{arm}: an operation more in float"
    assert rounded == plain[3], f"{arm}: an operation more in int8"
    assert agree[1] > 0.999, f"{arm}, {seed}: the float model answers otherwise"
    assert agree[2] > 0.95, f"{arm}, {seed}: int8 answers otherwise"
    assert abs(right[2] - right[0]) < 0.03, f"{arm}, {seed}: int8 costs more than 3 points"
