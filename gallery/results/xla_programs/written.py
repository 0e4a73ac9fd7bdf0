"""Compiled functions of TensorFlow as the text of programs, without variables.

A program takes tensors and returns tensors, so that it needs nothing of TensorFlow when it is run:
the state of a layer or a model goes in and comes out.
"""

import json
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import bnref
from bnref_gallery import models

NORMS = {
    "bnref.BatchNorm": bnref.BatchNorm,
    "bnref.SyncBatchNorm": bnref.SyncBatchNorm,
    "keras.layers.BatchNormalization": keras.layers.BatchNormalization,
    "no norm": None,
}
LEARNING_RATE = 0.1


# How large the arrays are: where a program is compared with TensorFlow, and where it is timed.
LAYER_SHAPES = {"compared": (8, 14, 14, 64), "cpu": (16, 56, 56, 64), "gpu": (256, 56, 56, 64)}
BATCHES = {"compared": 16, "cpu": 16, "gpu": 256}


def layer_program(norm):
    """Forward and backward pass of a layer: (γ, β, state, x, dy) to (y, dx, dγ, dβ, state)."""
    layer = NORMS[norm]()
    layer.build((None, None, None, 64))

    def passes(trainable, state, x, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, *trainable])
            y, state = layer.stateless_call(trainable, state, x, training=True)
        return [y, *tape.gradient(y, [x, *trainable], dy), *state]

    sizes = {size: [tf.TensorSpec(shape)] * 2 for size, shape in LAYER_SHAPES.items()}
    return passes, state_of(layer), sizes


def step_program(norm):
    """A step of SGD: (weights, state, x, y) to (loss, weights, state)."""
    model = network(norm)

    def step(weights, state, x, y):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, state = model.stateless_call(weights, state, x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, weights)
        pairs = zip(weights, gradients, strict=True)
        return [loss, *(weight - LEARNING_RATE * each for weight, each in pairs), *state]

    sizes = {size: [images(n), tf.TensorSpec(n, tf.int32)] for size, n in BATCHES.items()}
    return step, state_of(model), sizes


def logits_program(norm):
    """A model at inference: (weights, state, x) to logits."""
    model = network(norm)

    def logits(weights, state, x):
        return [model.stateless_call(weights, state, x, training=False)[0]]

    return logits, state_of(model), {size: [images(n)] for size, n in BATCHES.items()}


def network(norm):
    keras.utils.set_random_seed(0)
    return models.three_convolutions(NORMS[norm], image_shape=(32, 32, 3), filters=(32, 64, 128))


def images(number):
    return tf.TensorSpec((number, 32, 32, 3))


def state_of(layer):
    """The values of what is trained, and of what is not."""
    trained = [each.numpy() for each in layer.trainable_variables]
    return trained, [each.numpy() for each in layer.non_trainable_variables]


def programs():
    """All programs by name: functions that return a program, its state and its inputs by size."""
    found = {}
    for norm in NORMS:
        if NORMS[norm] is not None:
            found[f"layer, {norm}"] = partial(layer_program, norm)
        found[f"step, {norm}"] = partial(step_program, norm)
        found[f"logits, {norm}"] = partial(logits_program, norm)
    return found


def write(folder, names=None):
    """Write programs as text, with the state that they begin with, and what TensorFlow returns.

    Parameters
    ----------
    folder : path
        Made. Gets a text for each program and size, an ``.npz`` for each program, and an index.
    names : list of str, optional
        Of `programs`; all unless given.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    index = {}
    for number, name in enumerate(names or programs()):
        function, state, sizes = programs()[name]()
        compiled = tf.function(flattened(function, state), jit_compile=True)
        state = tf.nest.flatten(state)
        specs = [tf.TensorSpec(each.shape, each.dtype) for each in state]
        for size, inputs in sizes.items():
            text = compiled.experimental_get_compiler_ir(*specs, *inputs)(stage="stablehlo")
            (folder / f"{number}-{size}.mlir").write_text(text, "utf-8")
        inputs = inputs_of(sizes["compared"])
        returned = compiled(*map(tf.constant, [*state, *inputs]))
        given = {f"given_{i}": each for i, each in enumerate([*state, *inputs])}
        found = {f"returned_{i}": each.numpy() for i, each in enumerate(returned)}
        np.savez(folder / f"{number}.npz", **given, **found)
        shapes = {size: [list(each.shape) for each in some] for size, some in sizes.items()}
        index[name] = {"number": number, "shapes": shapes}
    whole = {"tensorflow": tf.__version__, "programs": index}
    (folder / "index.json").write_text(json.dumps(whole, indent=1))


def flattened(function, state):
    """The function, given the state's arrays one after the other: TensorFlow's compiler asks so."""
    count = len(tf.nest.flatten(state))

    def of_all(*arguments):
        return function(*tf.nest.pack_sequence_as(state, arguments[:count]), *arguments[count:])

    return of_all


def inputs_of(specs):
    """Random values: numbers, or the classes of ten."""
    random, found = np.random.default_rng(0), []
    for each in specs:
        if each.dtype == tf.int32:
            found.append(random.integers(0, 10, each.shape).astype("int32"))
        else:
            found.append(random.standard_normal(each.shape).astype("float32"))
    return found
