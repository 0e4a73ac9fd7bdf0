"""Tests of the callbacks of Run.train: told at each row, resumed, and ended together."""

import csv
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import QUIET, assert_same_values

from bnref import BatchNorm, workers
from bnref.training import Checkpoints, Run

pytestmark = pytest.mark.slow
RANDOM = np.random.default_rng(0)
X = (RANDOM.standard_normal((50, 4)) * [1, 9, 0.2, 2] + [3, 0, 0, -1]).astype("float32")
Y = np.int64(X[:, 0] > 3)
CURVE = [5.0, 4.0, 3.0, 2.0, 2.5, 2.6, 1.0, 2.7, 2.8, 2.9, 3.0, 3.1]
of_keras = keras.callbacks
LIMIT = 180  # seconds, a safety net


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8), BatchNorm(), keras.layers.Dropout(0.3)]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


def curve(run):
    """A validation loss as it is wanted, by the number of the step: one a row."""
    return {"val_loss": CURVE[int(run.optimizer.iterations.numpy()) // 2]}


def learned(callbacks, checkpoints=None, *, steps=20, rate=0.01, **options):
    """The history, and the run."""
    run = Run(network(), keras.optimizers.Adam(rate))
    options = {"batch_size": 16, "every": 2, "measure": curve, **options}
    return run.train(
        X, Y, steps=steps, callbacks=callbacks, checkpoints=checkpoints, **options
    ), run


class Notes(of_keras.Callback):
    """What it was told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def on_train_begin(self, logs=None):
        self.told.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.told.append((epoch, logs, self.model.optimizer))

    def on_train_end(self, logs=None):
        self.told.append("end")


def test_a_callback_is_told_each_row_but_that_of_step_0_with_the_runs_optimizer():
    notes = Notes()
    history, run = learned([notes], steps=7)
    begin, *rows, end = notes.told
    assert (begin, end) == ("begin", "end")
    np.testing.assert_array_equal(history["step"], [0, 2, 4, 6, 7])
    assert [epoch for epoch, _, _ in rows] == [0, 1, 2]
    assert all(optimizer is run.optimizer for _, _, optimizer in rows)
    for (_, logs, _), number in zip(rows, (1, 2, 3), strict=True):
        assert logs == {"loss": history["loss"][number], "val_loss": history["val_loss"][number]}
    assert getattr(run.model, "optimizer", None) is None, "the model is as it was"


def test_a_run_with_callbacks_trains_as_one_without(tmp_path):
    (one, run), (other, told) = (
        learned(None),
        learned([Notes(), of_keras.CSVLogger(tmp_path / "a")]),
    )
    np.testing.assert_array_equal(one["loss"], other["loss"])
    assert_same_values(told.model, [np.array(each) for each in run.model.variables])


def stopper(**options):
    return of_keras.EarlyStopping(patience=2, **options)


def test_early_stopping_ends_the_run_with_its_row_and_a_checkpoint(tmp_path):
    """The smallest loss but one is at step 6, and patience is over at 10."""
    checkpoints = Checkpoints(tmp_path, every=100)
    history, run = learned([stopper()], checkpoints)
    np.testing.assert_array_equal(history["step"], [0, 2, 4, 6, 8, 10])
    assert int(run.optimizer.iterations.numpy()) == 10
    assert checkpoints.steps() == [10]


def test_a_run_that_was_ended_by_a_callback_stays_ended_when_it_is_started_again(tmp_path):
    history, run = learned([stopper()], Checkpoints(tmp_path))
    again, other = learned([stopper()], Checkpoints(tmp_path))
    np.testing.assert_array_equal(again["loss"], history["loss"])
    assert_same_values(other.model, [np.array(each) for each in run.model.variables])
    onward, _ = learned(None, Checkpoints(tmp_path))
    assert onward["step"][-1] == 20, "without the callback it goes on"


@pytest.mark.parametrize("interrupted", [2, 5, 6, 7, 8, 9])
def test_a_resumed_run_stops_where_one_that_was_not_interrupted_does(tmp_path, interrupted):
    checkpoints = Checkpoints(tmp_path, every=100)
    learned([stopper()], checkpoints, steps=interrupted)
    history, _ = learned([stopper()], checkpoints)
    whole, _ = learned([stopper()])
    for name, values in whole.items():
        np.testing.assert_array_equal(history[name], values)


def test_best_weights_are_put_back_where_no_checkpoint_would_forget_them():
    history, run = learned([stopper(restore_best_weights=True)])
    assert history["step"][-1] == 10
    _, best = learned(None, steps=6)
    assert_same_weights(best.model, run.model)


def assert_same_weights(one, other):
    """All but the state of dropout, which Keras puts back nowhere."""
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_plateau_lowers_the_rate_and_so_in_a_resumed_run(tmp_path):
    def plateau():
        return of_keras.ReduceLROnPlateau(patience=2, factor=0.5, min_delta=0.01)

    whole, run = learned([plateau()])
    checkpoints = Checkpoints(tmp_path, every=100)
    learned([plateau()], checkpoints, steps=8)
    assert_same_rate(run, 0.01 * 0.5**3)
    again, other = learned([plateau()], checkpoints)
    assert_same_rate(other, 0.01 * 0.5**3)
    np.testing.assert_array_equal(again["loss"], whole["loss"])
    assert_same_values(other.model, [np.array(each) for each in run.model.variables])


def test_a_plateau_beside_a_schedule_is_refused_before_anything_is_trained():
    schedule, measured = keras.optimizers.schedules.CosineDecay(0.01, 9), []
    said = "callbacks must not have ReduceLROnPlateau with a schedule of the learning rate, which"
    with pytest.raises(ValueError, match=said):
        learned(
            [of_keras.ReduceLROnPlateau()], rate=schedule,
            measure=lambda run: measured.append(1) or {},
        )  # fmt: skip
    assert not measured


def assert_same_rate(run, wanted):
    assert float(run.optimizer.learning_rate.numpy()) == pytest.approx(wanted)


def rows_of(path):
    with path.open() as file:
        return [(int(row["epoch"]), float(row["loss"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("append", [False, True])
def test_a_table_has_all_rows_once_after_a_resumption_too(tmp_path, append):
    checkpoints, path = Checkpoints(tmp_path / "kept", every=100), tmp_path / "rows.csv"
    for steps in (8, 14):
        logger = of_keras.CSVLogger(path, append=append)
        history, _ = learned([logger], checkpoints, steps=steps)
    wanted = [(number, loss) for number, loss in enumerate(history["loss"][1:])]
    assert [epoch for epoch, _ in rows_of(path)] == list(range(7))
    np.testing.assert_allclose(rows_of(path), wanted)


def test_the_best_model_is_saved_and_not_saved_over_after_a_resumption(tmp_path):
    path = tmp_path / "best.keras"

    def best():
        return of_keras.ModelCheckpoint(path, save_best_only=True)

    checkpoints = Checkpoints(tmp_path / "kept", every=100)
    learned([best()], checkpoints, steps=8)
    learned([best()], checkpoints, steps=11)
    _, wanted = learned(None, steps=6)
    assert_same_weights(keras.models.load_model(path), wanted.model)


def written_for_tensorboard(folder):
    """By tag and number, the values in the files of one folder that TensorBoard reads."""
    found = {}
    for path in sorted(folder.glob("events.out.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for each in event.summary.value:
                if each.HasField("tensor"):
                    value = float(tf.make_ndarray(each.tensor))
                    found.setdefault(each.tag, {})[event.step] = value
    return found


def test_tensorboard_gets_each_row_by_its_number_after_a_resumption_too(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept", every=100)
    for steps in (8, 14):
        board = of_keras.TensorBoard(tmp_path / "board", write_graph=False)
        history, _ = learned([board], checkpoints, steps=steps)
    for part, name in (("train", "loss"), ("validation", "val_loss")):
        found = written_for_tensorboard(tmp_path / "board" / part)
        wanted = dict(enumerate(map(float, history[name][1:])))
        assert found["epoch_loss"] == pytest.approx(wanted, rel=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_where_it_is_kept():
    history, _ = learned(
        [of_keras.TerminateOnNaN()], nonfinite="keep", rate=1e38, every=1,
        measure=lambda run: {},
    )  # fmt: skip
    assert 1 < len(history["step"]) < 10 and not np.isfinite(history["loss"][-1])


def test_functions_are_told_what_fit_tells_them_and_in_a_resumed_run_too(tmp_path):
    checkpoints, told = Checkpoints(tmp_path, every=100), []
    for steps in (4, 8):
        each = of_keras.LambdaCallback(
            on_train_begin=lambda logs: told.append("training begins"),
            on_train_end=lambda logs: told.append("training ends"),
            on_epoch_begin=lambda epoch, logs: told.append(f"begins {epoch}"),
            on_epoch_end=lambda epoch, logs: told.append(f"ends {epoch}"),
        )
        learned([each], checkpoints, steps=steps)
    assert told == [
        "training begins", "begins 0", "ends 0", "begins 1", "ends 1", "begins 2", "training ends",
        "training begins", "begins 2", "ends 2", "begins 3", "ends 3", "begins 4", "training ends",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: of_keras.BackupAndRestore("a"), "BackupAndRestore, which needs fit: give checkpo"),
        (lambda: of_keras.LearningRateScheduler(lambda e: 0.1), "LearningRateScheduler, which n"),
        (lambda: of_keras.SwapEMAWeights(), "SwapEMAWeights, which needs fit: evaluate within"),
        (lambda: of_keras.ModelCheckpoint("a.keras", save_freq=5), "with save_freq='epoch', which"),
        (lambda: of_keras.TensorBoard("a", update_freq=5), "with update_freq='epoch', which is"),
        (lambda: "EarlyStopping", "callbacks must be Keras callbacks in a list; received str"),
        (lambda: stopper(restore_best_weights=True), "EarlyStopping without restore_best_weights"),
    ],
)  # fmt: skip
def test_what_needs_fit_is_refused_by_name_before_anything_is_trained(tmp_path, make, said):
    measured = []
    with pytest.raises(ValueError, match=re.escape(said)):
        learned(
            [make()], Checkpoints(tmp_path), measure=lambda run: measured.append(1) or {}
        )  # fmt: skip
    assert not measured


def test_workers_end_at_the_same_step_and_the_first_one_writes(tmp_path):
    """Each has another validation loss; that of the first counts."""
    script = Path(__file__).with_name("callbacks_worker.py")
    workers.start(script, 2, str(tmp_path), timeout=LIMIT, environment=QUIET)
    one, other = (json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2))
    assert one == other
    assert one["steps"] == [0, 2, 4, 6, 8, 10] and one["rate"] == pytest.approx(0.005)
    assert [path.name for path in tmp_path.glob("*.csv")] == ["0.csv"]
    assert [epoch for epoch, _ in rows_of(tmp_path / "0.csv")] == list(range(5))
    assert Checkpoints(tmp_path / "kept").steps() == [10]
