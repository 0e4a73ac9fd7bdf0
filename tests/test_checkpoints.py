"""Tests of bnref.training.Checkpoints: a run goes on as if it had not been interrupted."""

import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import LEAN, QUIET

from bnref import BatchNorm, training
from bnref.training import Checkpoints

pytestmark = pytest.mark.slow
RANDOM = np.random.default_rng(0)
X = (RANDOM.standard_normal((50, 4)) * [1, 9, 0.2, 2] + [3, 0, 0, -1]).astype("float32")
Y = np.int64(X[:, 0] > 3)


def network(units=8):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(units), BatchNorm(), keras.layers.Dropout(0.3)]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


def learned(checkpoints, *, steps, make=network, **options):
    """The history and all variables, those of the optimizer too."""
    model, optimizer = make(), keras.optimizers.Adam(0.01)
    options = {"batch_size": 16, "every": 2, "seed": 3, **options}
    history = training.train(
        model, X, Y, steps=steps, optimizer=optimizer, checkpoints=checkpoints, **options
    )
    return history, [np.array(each) for each in (*model.variables, *optimizer.variables)]


def assert_same_run(one, other):
    for name, values in one[0].items():
        np.testing.assert_array_equal(values, other[0][name], err_msg=name)
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def undisturbed():
    return learned(None, steps=20)


@pytest.mark.parametrize("interrupted", [1, 5, 11, 19, 20])
def test_a_resumed_run_has_the_curve_and_every_variable_of_an_undisturbed_one(
    tmp_path, undisturbed, interrupted
):
    """Weights, population, dropout's random state, Adam's moments, order of the data, history."""
    checkpoints = Checkpoints(tmp_path / "new" / "folder", every=5)
    learned(checkpoints, steps=interrupted)
    assert max(checkpoints.steps()) == interrupted
    assert_same_run(undisturbed, learned(checkpoints, steps=20))


def test_a_run_that_is_complete_trains_no_further(tmp_path, undisturbed):
    checkpoints = Checkpoints(tmp_path, every=5)
    learned(checkpoints, steps=20)
    assert_same_run(undisturbed, learned(checkpoints, steps=20))


@pytest.mark.parametrize(
    "every, keep, steps", [(5, 2, [15, 20]), (8, 3, [8, 16, 20]), (30, 1, [20])]
)
def test_there_are_as_many_checkpoints_as_wanted_and_one_of_the_last_step(
    tmp_path, every, keep, steps
):
    checkpoints = Checkpoints(tmp_path, every=every, keep=keep)
    assert checkpoints.steps() == []
    learned(checkpoints, steps=20)
    assert checkpoints.steps() == steps


def flip(path):
    """One bit in the middle of the largest tensor's bytes."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:40])


DAMAGE = [
    ("data-00000-of-00001", flip), ("data-00000-of-00001", cut), ("index", cut), ("index", flip),
]  # fmt: skip


@pytest.mark.parametrize("part, damage", DAMAGE)
def test_a_spoilt_checkpoint_is_told_of_and_the_one_before_it_used(
    tmp_path, undisturbed, part, damage
):
    checkpoints = Checkpoints(tmp_path, every=5)
    learned(checkpoints, steps=15)
    damage(tmp_path / f"step-15.{part}")
    with pytest.warns(UserWarning, match=r"step-15 cannot be read \(.+\); the one before it is"):
        run = learned(checkpoints, steps=20)
    assert_same_run(undisturbed, run)


def test_where_none_can_be_read_nothing_is_begun_anew_in_silence(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=5)
    learned(checkpoints, steps=10)
    for path in tmp_path.glob("step-*.data*"):
        cut(path)
    with pytest.warns(UserWarning), pytest.raises(OSError, match="no checkpoint in .* can be read"):
        learned(checkpoints, steps=20)
    assert checkpoints.steps() == [5, 10]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seed": 4}, "seed must be 3, as in the run whose checkpoint is .*step-10; received 4"),
        ({"batch_size": 8}, "batch_size must be 16, .*received 8"),
        ({"accumulate": 2}, "accumulate must be 1, .*received 2"),
        ({"carry": False}, "carry must be True, .*received False"),
        ({"make": lambda: network(9)}, "model must have the variables of the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(tmp_path, change, said):
    checkpoints = Checkpoints(tmp_path, every=5)
    learned(checkpoints, steps=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=said):
        learned(checkpoints, steps=20, **change)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_numbers_of_numpy_and_tensorflow_can_be_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=5)
    options = {"measure": lambda run: {"a": np.float32(2), "b": tf.constant(3)}}
    options |= {"seed": np.int64(3), "batch_size": np.int64(16), "carry": np.bool_(True)}
    learned(checkpoints, steps=5, **options)
    history, _ = learned(checkpoints, steps=6, **options)
    np.testing.assert_array_equal(history["a"], 2), np.testing.assert_array_equal(history["b"], 3)
    assert list(history["step"]) == [0, 2, 4, 6]


def test_a_complete_run_started_again_keeps_its_last_row_and_is_not_shortened(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=5)
    once = learned(checkpoints, steps=7)
    assert list(once[0]["step"]) == [0, 2, 4, 6, 7]
    assert_same_run(once, learned(checkpoints, steps=7))
    with pytest.raises(ValueError, match="steps must be at least 7, where the checkpoint is; rec"):
        learned(checkpoints, steps=6)


def test_a_learning_rate_that_the_checkpoint_overrides_is_told_of(tmp_path):
    def at(rate, steps):
        keras.utils.set_random_seed(0)
        optimizer = keras.optimizers.SGD(rate)
        training.train(
            network(), X, Y, steps=steps, batch_size=16, optimizer=optimizer,
            checkpoints=Checkpoints(tmp_path, every=5),
        )  # fmt: skip
        return float(optimizer.learning_rate)

    at(0.5, 5)
    with pytest.warns(UserWarning, match="the learning rate is 0.5, as in the check.*, not 0.001"):
        assert at(0.001, 10) == 0.5
    assert at(0.5, 15) == 0.5, "and no warning, which would be an error"


def test_a_loss_that_is_not_finite_spoils_no_checkpoint(tmp_path):
    """The model is good for seven steps; then one replica's loss is infinite."""
    calls = []

    def loss(y, output):
        calls.append(1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)
        return tf.where(tf.cast(optimizer.iterations.value, tf.int64) >= 7, np.inf, losses)

    model, optimizer = network(), keras.optimizers.Adam(0.01)
    checkpoints = Checkpoints(tmp_path, every=5)
    with pytest.raises(FloatingPointError, match="loss is inf at step 8, on replica 0 of 1"):
        training.train(
            model, X, Y, steps=20, batch_size=16, optimizer=optimizer, loss=loss, every=20,
            checkpoints=checkpoints,
        )  # fmt: skip
    assert calls and checkpoints.steps() == [5]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"every": 0}, "every must be"),
        ({"keep": 0}, "keep must be"),
        ({"every": 2.5}, "every must"),
    ],
)
def test_bad_numbers_are_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        Checkpoints(tmp_path, **options)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="folder must be a folder, or not exist yet; .*file is a"):
        Checkpoints(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_schedule_goes_on_where_it_was(tmp_path):
    def run(checkpoints, steps):
        optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.5, 12))
        model = network()
        history = training.train(
            model, X, Y, steps=steps, batch_size=16, optimizer=optimizer, every=1,
            checkpoints=checkpoints,
        )  # fmt: skip
        return history, [np.array(each) for each in (*model.variables, *optimizer.variables)]

    checkpoints = Checkpoints(tmp_path)
    run(checkpoints, 5)
    assert_same_run(run(None, 12), run(checkpoints, 12))


# SIGTERM, by which a scheduler says that the machine is taken away.


def sends(step, number=signal.SIGTERM):
    """A measure that sends this process a signal after a step."""

    def measure(run):
        if int(run.optimizer.iterations) == step:
            os.kill(os.getpid(), number)
        return {}

    return measure


@pytest.mark.parametrize("step", [0, 8])
def test_sigterm_ends_a_run_after_a_checkpoint_from_which_it_goes_on(
    tmp_path, undisturbed, capsys, step
):
    checkpoints = Checkpoints(tmp_path, every=50)
    with pytest.raises(SystemExit) as ended:
        learned(checkpoints, steps=20, measure=sends(step))
    assert ended.value.code == 143 and checkpoints.steps() == [step + 1]
    said = f"SIGTERM was received: the checkpoint of step {step + 1} is in {tmp_path}, and training"
    assert said in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert_same_run(undisturbed, learned(checkpoints, steps=20))


def test_sigterm_after_the_last_step_loses_nothing(tmp_path, undisturbed):
    checkpoints = Checkpoints(tmp_path, every=50)
    with pytest.raises(SystemExit):
        learned(checkpoints, steps=20, measure=sends(19), every=1)
    assert checkpoints.steps() == [20]


def test_a_program_with_a_handler_of_its_own_keeps_it(tmp_path):
    received = []
    signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        history, _ = learned(Checkpoints(tmp_path), steps=4, measure=sends(2))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert received == [1] and history["step"][-1] == 4


def test_without_checkpoints_sigterm_is_left_alone():
    handlers = []
    learned(None, steps=2, measure=lambda run: handlers.append(signal.getsignal(15)) or {})
    assert handlers == [signal.SIG_DFL] * 2


FULL = """
import json, os, resource, sys
from test_checkpoints import Checkpoints, learned, network

big = lambda: network(3000)
checkpoints = Checkpoints(sys.argv[1], every=5)
learned(checkpoints, steps=5, make=big)
if sys.argv[2] == "limit":  # no file may grow beyond it: a write fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
else:
    with open(sys.argv[2], "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
try:
    learned(checkpoints, steps=20, make=big)
except OSError as error:
    print(json.dumps([str(error), sorted(os.listdir(sys.argv[1])), checkpoints.steps()]))
"""


def full_disk(folder, how, *prefix):
    """Write a second checkpoint where there is no room; what was said, and what is left."""
    environment = {**os.environ, **QUIET, "PYTHONPATH": ":".join([LEAN, *sys.path])}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", FULL, str(folder), how],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_the_first_is_valid(said, files, steps, reason):
    assert "the checkpoint of step 10 could not be written to" in said and reason in said
    assert "; the last one is of step 5" in said and "{{" not in said
    assert files == ["checkpoint", "step-5.data-00000-of-00001", "step-5.index"]
    assert steps == [5]


def test_a_write_that_fails_leaves_the_checkpoint_before_it_and_nothing_half_written(tmp_path):
    assert_the_first_is_valid(*full_disk(tmp_path, "limit"), "File too large")
    whole = learned(None, steps=6, make=lambda: network(3000))
    again = learned(Checkpoints(tmp_path, every=5), steps=6, make=lambda: network(3000))
    assert_same_run(whole, again)


def test_a_full_disk_leaves_the_checkpoint_before_it_and_nothing_half_written(tmp_path):
    mount = f"mount -t tmpfs -o size=1500k none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    prefix = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" "$@"']
    found = full_disk(tmp_path / "kept", str(tmp_path / "filler"), *prefix)
    assert_the_first_is_valid(*found, "No space left on device")
