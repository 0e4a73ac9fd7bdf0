"""Programs run by JAX: compiled by XLA for the device that is there, without TensorFlow."""

import json
import time
from pathlib import Path

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir


class Program:
    """A program, with the state that it begins with and what TensorFlow returned for its inputs.

    Parameters
    ----------
    folder : path
    number : int
        Of its files.
    shapes : dict
        For each size ("compared", "cpu", "gpu") the shapes of the inputs, which come last.
    """

    def __init__(self, folder, number, shapes):
        self.folder, self.number, self.shapes = Path(folder), number, shapes
        with np.load(self.folder / f"{number}.npz") as arrays:
            self.given = _in_order(arrays, "given")
            self.returned = _in_order(arrays, "returned")
        self.state = self.given[: -len(shapes["compared"])]

    def text(self, size):
        """The program for inputs of this size."""
        return (self.folder / f"{self.number}-{size}.mlir").read_text("utf-8")

    def characters(self, size):
        return len(self.text(size))

    def compiled(self, size):
        """A function of the state and the inputs of this size, for the device that is there."""
        with mlir.make_ir_context():
            code = mlir.module_to_bytecode(ir.Module.parse(self.text(size)))
        here = jax.devices()[:1]
        run = here[0].client.compile_and_load(code, xla_client.DeviceList(tuple(here)))
        return lambda arguments: run.execute([jax.device_put(each) for each in arguments])

    def error(self):
        """The largest difference from what TensorFlow returned, as a share of the largest value."""
        pairs = zip(self.compiled("compared")(self.given), self.returned, strict=True)
        return max(
            float(np.abs(np.asarray(own) - other).max() / max(np.abs(other).max(), 1e-30))
            for own, other in pairs
        )

    def inputs(self, size):
        """Random inputs of this size; those that are classes stay below 10."""
        random, found = np.random.default_rng(1), []
        for shape, first in zip(self.shapes[size], self.given[len(self.state) :], strict=True):
            whole = first.dtype.kind == "i"
            drawn = random.integers(0, 10, shape) if whole else random.standard_normal(shape, "f4")
            found.append(drawn.astype(first.dtype))
        return found


def seconds(programs, size, rounds):
    """The median time of each program, by name; they take turns, with arguments on the device."""
    calls = {}
    for name, program in programs.items():
        arguments = [jax.device_put(each) for each in [*program.state, *program.inputs(size)]]
        calls[name] = program.compiled(size), arguments
    found = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, (run, arguments) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(run(arguments))
            found[name].append(time.perf_counter() - start)
    return {name: float(np.median(each[1:])) for name, each in found.items()}  # the first allocates


def _in_order(arrays, kind):
    count = sum(name.startswith(kind) for name in arrays.files)
    return [arrays[f"{kind}_{i}"] for i in range(count)]


def programs(folder):
    """The programs of a folder, by name, and the version of TensorFlow that wrote them."""
    index = json.loads((Path(folder) / "index.json").read_text())
    found = {name: Program(folder, **each) for name, each in index["programs"].items()}
    return found, index["tensorflow"]


def curve(step, logits, size, train, test, *, epochs, seed):
    """Train by a step from its first weights, and test after each epoch.

    Parameters
    ----------
    step, logits : Program
    size : str
    train, test : tuple of arrays, (x, y)
        Cut to whole batches.

    Returns
    -------
    list of (float, float)
        Mean training loss and test accuracy, one pair an epoch.
    """
    (batch, *_), (run, infer) = step.shapes[size][0], (step.compiled(size), logits.compiled(size))
    values, rows = [jax.device_put(each) for each in step.state], []
    random = np.random.default_rng(seed)
    for _ in range(epochs):
        losses, right = [], []
        for x, y in _batches(*train, batch, random.permutation(len(train[0]))):
            loss, *values = run([*values, x, y])
            losses.append(loss)
        for x, y in _batches(*test, batch, np.arange(len(test[0]))):
            right.append(np.asarray(infer([*values, x])[0]).argmax(1) == y)
        rows.append((float(np.mean([float(each) for each in losses])), float(np.mean(right))))
    return rows


def _batches(x, y, size, order):
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield x[chosen], y[chosen].astype("int32")
