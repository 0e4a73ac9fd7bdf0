"""
What int8 costs is not batch norm's fault: the converter takes the norm up
==========================================================================

A small convolutional network is converted by TensorFlow Lite, with batch norm and without. Between
a convolution and its activation the norm leaves no operation of its own: a network with 3 norms
has as many operations as one without. In int8 the network with batch norm gives the same class as
the trained one for :claim:`99.6 % <with_norm>` of the digits, and the network without any norm for
:claim:`99.4 % <without_norm>`. What is lost there is lost by quantization.

.. symptom:: the exported model predicts otherwise
   :cause: int8 rounds weights and activations; batch norm is a part of the convolution by then
   :check: convert once without ``optimizations``: does the float model agree with the trained one?
   :likelihood: often
   :question: none
"""

# %%
# Check
# -----
# Look at the operations of the converted model, and at its answers. Where ``MUL``, ``ADD``,
# ``SHAPE`` or ``RESHAPE`` stand behind a convolution, a norm was not taken up. Compare the answers
# in float first: if they agree there, and not in int8, then quantization is what to look at.

import contextlib
import gc
import io
import tempfile
import warnings
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import bnref
from bnref import folding, training
from bnref_gallery import datasets, models, scale
from bnref_gallery.claims import claim
from bnref_gallery.restarts import restart

# %%
# Both functions take a ``tf.lite.Interpreter``.


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
# Put the norm between the convolution and its activation, where the converter takes it up; export
# in inference mode, and leave the rest to it. A norm behind an activation stays, in int8 too. What
# :func:`bnref.folding.fold_model` can fold, it folds before.
#
# Wrong
# ^^^^^


def block_with_norm_last(filters):
    convolution = keras.layers.Conv2D(filters, 3, padding="same")
    return [convolution, keras.layers.ReLU(), bnref.BatchNorm()]


# %%
# Right
# ^^^^^


def block_with_norm_between(filters):
    convolution = keras.layers.Conv2D(filters, 3, padding="same")
    return [convolution, bnref.BatchNorm(), keras.layers.ReLU()]


# %%
# Why
# ---
# At inference the statistics are constants (question 3, *used when*: the population's), so that
# batch norm is a line for each channel, and a line behind a convolution is a convolution: the
# converter multiplies the kernel by γ/√(σ² + ε) before anything is rounded (Jacob et al. 2018,
# arXiv 1712.05877, section 3.2). Only afterwards are kernels rounded to 8 bits, with one scale for
# each channel.
#
# Experiment
# ----------
# Digits half as wide and as high.

data = datasets.load("mnist").take(train=3000, test=1000)
x_train, x_test = data.x_train[:, ::2, ::2], data.x_test[:, ::2, ::2]
NORMS = {"batch norm": lambda: bnref.BatchNorm(momentum=0.9), "no norm": None}


def network(norm):
    return models.three_convolutions(norm, image_shape=(14, 14, 1), filters=(8, 16, 16))


RUNS = {
    name: training.Run(network(norm), keras.optimizers.Adam(0.01)) for name, norm in NORMS.items()
}


def trained(seed, name):
    """A network of its own, trained by the one that is traced for all seeds."""
    run, make = RUNS[name], partial(network, NORMS[name])
    restart(run.model, run.optimizer, make, seed=seed)
    run.train(x_train, data.y_train, steps=120, batch_size=64, seed=seed)
    model = make()
    model.set_weights(run.model.get_weights())
    return model


# %%
# What the converter makes of it.

warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated")
warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")


def converted(folder, images=None):
    """An interpreter of an exported model: in float, or in int8 with ranges of ``images``."""
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
    gc.freeze()  # it collects garbage, and need not look at all that is there already
    with contextlib.redirect_stdout(io.StringIO()):  # it lists the inputs and outputs
        content = converter.convert()
    gc.unfreeze()
    return tf.lite.Interpreter(model_content=content)


def tried(model):
    """In float and in int8: right answers, agreement with the trained model, and operations."""
    own, rows = np.argmax(model(x_test, training=False), -1), []
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        for interpreter in (converted(folder), converted(folder, x_train[:50])):
            found = answers(interpreter, x_test)
            right, agreement = np.mean(found == data.y_test), np.mean(found == own)
            rows.append((right, agreement, operations(interpreter)))
    return rows


# %%
# The first model is tried with Keras's layers in place of ours, and folded by hand, too.

trained_models = {
    (name, seed): trained(seed, name)
    for seed in range(scale.at_scale(quick=3, full=10))
    for name in NORMS
}
normalized = trained_models["batch norm", 0]
trained_models["Keras's batch norm", 0] = network(keras.layers.BatchNormalization)
trained_models["Keras's batch norm", 0].set_weights(normalized.get_weights())
trained_models["folded by hand", 0] = folding.fold_model(normalized).model
exact, rounded = {}, {}
for arm, model in trained_models.items():
    exact[arm], rounded[arm] = tried(model)

# %%

names = sorted({name for name, _ in rounded})
fig, ax = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
for label, found, color, shift in (("float", exact, "C0", -0.1), ("int8", rounded, "C1", 0.1)):
    accuracies = [each[0] for each in found.values()]
    rows = [names.index(name) + shift for name, _ in found]
    ax.plot(accuracies, rows, "o", color=color, label=label)
ax.set(title="Converted, in float and in int8", xlabel="test accuracy")
ax.set(yticks=range(len(names)), yticklabels=names)
ax.invert_yaxis()
fig.legend(loc="outside lower center", ncols=2)
ax.set_ylabel("network")
plt.show()

# %%
# Proof
# -----
# Operations, agreement with the trained model, accuracies, and the two blocks of the fix.

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
agreements = {name: [] for name, _ in rounded}
for (name, _), (_, agreement, _) in rounded.items():
    agreements[name].append(agreement)
claim("with_norm", agreements["batch norm"], "int8 agrees, with batch norm", above=0.95)
claim("without_norm", agreements["no norm"], "int8 agrees, without a norm", above=0.95)


def operations_of(block):
    layers = [keras.Input((14, 14, 1)), *block(8), keras.layers.Conv2D(8, 3)]
    model = keras.Sequential(layers)
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        return operations(converted(folder))


left_over, none_left = operations_of(block_with_norm_last), operations_of(block_with_norm_between)
print("operations, the norm last and between:", left_over, none_left)
assert {"MUL", "ADD"} & set(left_over), "a norm behind an activation leaves operations"
assert set(none_left) == {"CONV_2D"}, "one between convolution and activation leaves none"
