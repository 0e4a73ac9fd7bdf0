"""What every test starts from: a quiet TensorFlow, a clean Keras, inputs that discriminate."""

import os
import subprocess

# Before TensorFlow is imported: it greets on standard error, once a process.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Tests run two files at a time, and threads wait for work by spinning: with a thread a core in each
# process they would keep each other from it.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import keras
import numpy as np
import pytest
from helpers import batch_of

# The same examples in every run, so that a failure is seen again; the first example of a property
# may include TensorFlow's start, so there is no deadline.
hypothesis.settings.register_profile("bnref", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("bnref")


@pytest.fixture(autouse=True)
def _clean_keras():
    """Each test has the same random state and float32, and leaves no names behind."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def batch():
    """Return ``batch(shape, seed)``: normal values whose channels differ in scale and offset."""
    return batch_of


@pytest.fixture
def separable():
    """90 examples of 3 classes, whose means lie apart by some deviations."""
    y = np.arange(90) % 3
    return (batch_of((90, 4)) + 12 * np.eye(4)[y]).astype("float32"), y


@pytest.fixture
def processes(monkeypatch):
    """Remember the processes that are started."""
    popen, started = subprocess.Popen, []

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


@pytest.fixture
def graph():
    """Give the test TensorFlow 1's conditions, and a graph whose weights are always the same."""
    from bnref.tf1 import tensorflow_1

    with tensorflow_1(seed=0) as graph:
        yield graph
