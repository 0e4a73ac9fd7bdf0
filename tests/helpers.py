"""What many tests share: numbers that tell channels apart, comparisons, and new processes.

Run as a script, it calls a function of a test's module: see `result_in_new_process`.
"""

import functools
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[1]

# No variable is what it starts as, and no two channels are alike.
GAMMA, BETA = [1.5, -0.7, 0.2], [0.3, 2.0, -4.0]
MEAN, VARIANCE = [0.5, -1.0, -6.0], [2.0, 0.3, 30.0]
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
EPSILON = 0.02  # large enough for a layer that forgets it to be seen
BOTH = pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
# For processes that tests start: they leave a GPU alone, and TensorFlow greets nobody.
QUIET_WITH_ALL = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
# Nor is anything imported that TensorFlow and Keras do not need.
LEAN = str(ROOT / "docs" / "_lean")
QUIET = {
    **QUIET_WITH_ALL,
    "PYTHONPATH": os.pathsep.join(filter(None, [LEAN, os.environ.get("PYTHONPATH")])),
}


KERAS = tuple(int(each) for each in keras.__version__.split(".")[:2])


def since_keras(major, minor, what):
    """Skip with an older Keras, and say what it does otherwise."""
    reason = f"Keras {keras.__version__}: {what}"
    return pytest.mark.skipif((major, minor) > KERAS, reason=reason)


RENORM = since_keras(3, 14, "its BatchNormalization has no renorm")
AVERAGED = since_keras(3, 14, "an activity regularizer is added up over the examples")


def batch_of(shape, seed=0, dtype="float32"):
    """Normal values whose channels differ in scale and offset."""
    random, channels = np.random.default_rng(seed), np.arange(shape[-1])
    scale, offset = 0.5 * 3.0**channels, 2.0 - 5 * channels + seed
    return (random.normal(size=shape) * scale + offset).astype(dtype)


def with_state(layer, channels=3):
    """Build the layer and set γ, β, mean and variance; each further row is 1.5 times the last."""
    if not layer.built:
        layer.build((None, channels))
    for variable, value in zip(
        layer.variables[:4], (GAMMA, BETA, MEAN, VARIANCE), strict=True
    ):  # fmt: skip
        rows = np.prod(variable.shape[:-1], dtype=int)
        value = np.resize(value, channels) * 1.5 ** np.arange(rows)[:, None]
        variable.assign(value.reshape(variable.shape))
    return layer


def state(layer):
    return {each.name: each.numpy() for each in layer.variables}


def assert_state(layer, expected, **options):
    """Every variable is as expected; what is not named is as `with_state` and `build` set it."""
    fresh = type(layer).from_config(layer.get_config())
    wanted = {**state(with_state(fresh, layer.gamma.shape[-1])), **expected}
    actual = state(layer)
    assert actual.keys() == wanted.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, wanted[name], err_msg=name, **(options or CLOSE))


def assert_same_state(layer, before):
    actual = state(layer)
    assert actual.keys() == before.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def values(model):
    return [np.array(each) for each in model.variables]


def assert_same_values(model, before):
    for actual, expected in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def output_and_gradients(layer, x, dy, training=True, **extra):
    """y, and the gradients of Σ dy·y with respect to x, γ and β."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training, **extra)
    watched = [x, layer.gamma.value, layer.beta.value]
    gradients = tape.gradient(y, watched, tf.cast(dy, y.dtype))
    return [tf.convert_to_tensor(each) for each in (y, *gradients)]


def assert_all_close(actual, expected, **options):
    for number, (each, wanted) in enumerate(zip(actual, expected, strict=True)):
        np.testing.assert_allclose(each, wanted, err_msg=str(number), **(options or CLOSE))


def central_differences(loss, values, step=1e-5):
    """The gradient of ``loss()`` with respect to an array that it reads, number by number."""
    differences = np.empty(values.shape)
    for index in np.ndindex(values.shape):
        kept = values[index]
        values[index] = kept + step
        above = loss()
        values[index] = kept - step
        differences[index] = (above - loss()) / (2 * step)
        values[index] = kept
    return differences


@functools.cache
def strategy_of(replicas):
    """One a process for each number: two that talk would mistake each other's messages."""
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def local(strategy, value, index):
    return np.array(strategy.experimental_local_results(value)[index])


def copies(strategy, variables):
    """The value of each variable on each replica of this process, one variable after the other."""
    return [
        np.array(copy)
        for each in variables
        for copy in strategy.experimental_local_results(each.value)
    ]


def in_new_process(*arguments, environment=None):
    """What this Python prints with the arguments, which is shown as well if it fails."""
    path = os.pathsep.join(filter(None, [LEAN, *sys.path]))
    environment = {**os.environ, **QUIET, "PYTHONPATH": path, **(environment or {})}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def result_in_new_process(function, *arguments, environment=None, options=()):
    """What a function of a test's module returns where nothing is imported or configured yet.

    An assertion that fails there fails the test that asked. ``options`` are the interpreter's.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "call")
        path.write_bytes(pickle.dumps((function, arguments)))
        in_new_process(*options, __file__, str(path), environment=environment)
        return pickle.loads(path.read_bytes())


def named_pipe(path):
    """Make a pipe at a path, for a process that the test does not start itself to say something."""
    os.mkfifo(path)
    return Path(path)


def wait_for(pipe, limit=180):
    """Wait until a process has written to the named pipe; the limit is a safety net, in seconds."""
    return subprocess.run(["cat", pipe], check=True, capture_output=True, timeout=limit)


def left(folder):
    """The numbers of the processes whose command line names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if str(folder).encode() in b" ".join(words):
            found.append(int(process.name))
    return found


if __name__ == "__main__":
    path = Path(sys.argv[1])
    function, arguments = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(function(*arguments)))
