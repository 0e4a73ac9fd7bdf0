"""Tests of results/xla_programs: TensorFlow's programs, and their run by JAX without TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

RESULTS = Path(__file__).parents[1] / "gallery" / "results"
sys.path.insert(0, str(RESULTS))
from xla_programs import written  # noqa: E402

pytestmark = pytest.mark.slow
NAMES = ["layer, bnref.BatchNorm", "step, keras.layers.BatchNormalization", "logits, no norm"]
COMPARE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from xla_programs import executed
found, _ = executed.programs(sys.argv[2])
assert "tensorflow" not in sys.modules
print(json.dumps({name: program.error() for name, program in found.items()}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("xla") / "programs"
    written.write(path, NAMES)
    return path


def arrays(folder, number, kind):
    with np.load(folder / f"{number}.npz") as found:
        count = sum(name.startswith(kind) for name in found.files)
        return [found[f"{kind}_{i}"] for i in range(count)]


def test_a_layers_program_normalizes_and_returns_what_is_remembered(folder):
    gamma, beta, mean, variance, x, dy = arrays(folder, 0, "given")
    y, dx, dgamma, dbeta, new_mean, new_variance = arrays(folder, 0, "returned")
    x, dy = np.float64(x), np.float64(dy)
    batch_mean, batch_variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    normalized = (x - batch_mean) / np.sqrt(batch_variance + 1e-3)
    np.testing.assert_allclose(y, gamma * normalized + beta, atol=1e-5)
    np.testing.assert_allclose(new_mean, 0.99 * mean + 0.01 * batch_mean, atol=1e-6)
    np.testing.assert_allclose(new_variance, 0.99 * variance + 0.01 * batch_variance, atol=1e-6)
    np.testing.assert_allclose(dbeta, dy.sum((0, 1, 2)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(dgamma, (dy * normalized).sum((0, 1, 2)), rtol=1e-3, atol=1e-3)
    centred = dy - dy.mean((0, 1, 2)) - normalized * (dy * normalized).mean((0, 1, 2))
    np.testing.assert_allclose(dx, centred / np.sqrt(batch_variance + 1e-3), atol=1e-5)


def test_a_steps_program_is_a_step_of_keras(folder):
    *_, x, y = arrays(folder, 1, "given")
    loss, *after = arrays(folder, 1, "returned")
    model = written.network("keras.layers.BatchNormalization")
    weights = [each.numpy() for each in model.trainable_variables]
    state = [each.numpy() for each in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            y, model(x, training=True), from_logits=True
        )
        expected = tf.reduce_mean(losses)
    gradients = tape.gradient(expected, [each.value for each in model.trainable_variables])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for new, old, each in zip(after, weights, gradients, strict=False):
        np.testing.assert_allclose(new, old - written.LEARNING_RATE * each, atol=1e-5)
    moved = [each.numpy() for each in model.non_trainable_variables]
    assert not any(map(np.array_equal, moved, state))
    for new, each in zip(after[len(weights) :], moved, strict=True):
        np.testing.assert_allclose(new, each, rtol=1e-4, atol=1e-5)


def test_a_program_needs_nothing_of_tensorflow_and_has_its_size(folder):
    index = json.loads((folder / "index.json").read_text())
    assert list(index["programs"]) == NAMES
    for name, each in index["programs"].items():
        for size, shapes in each["shapes"].items():
            text = (folder / f"{each['number']}-{size}.mlir").read_text("utf-8")
            assert "custom_call" not in text and "resource" not in text
            takes = text.split("@main(")[1].split("->")[0]
            assert "x".join(map(str, shapes[0])) + "xf32" in takes, f"{name}, {size}"


def test_jax_runs_them_to_the_same_without_tensorflow(folder):
    if subprocess.run([sys.executable, "-c", "import jax"], capture_output=True).returncode:
        pytest.skip("jax is not installed: pip install jax")
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(RESULTS), str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert list(errors) == NAMES and max(errors.values()) < 1e-4, errors
