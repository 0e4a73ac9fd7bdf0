"""Tests of bnref.doctor: what it says of models, and that it leaves them as they were."""

import dataclasses
import itertools
import json
import random
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    ROOT,
    assert_same_values,
    result_in_new_process,
    since_keras,
    strategy_of,
    values,
)

import bnref
from bnref import devices, doctor
from bnref.doctor import __main__ as program
from bnref_gallery.sick_models import _networks, _used

pytestmark = pytest.mark.slow

CLASSES = _networks.classes


def causes(report):
    return [each.cause for each in report.findings]


def small(**options):
    """A model that is not trained, with populations that are those of its data."""
    model = _networks.dense(**options)
    bnref.population.recompute(model, np.split(CLASSES()[0], 8))
    return model


@pytest.mark.parametrize("name", doctor.CHECKS)
def test_a_check_says_its_cause_its_question_and_a_page_that_there_is(name):
    check = doctor.CHECKS[name]
    assert 20 < len(check.cause) <= 98 and check.question in (1, 2, 3)
    gallery = check.page.startswith("gallery/")
    folder, suffix = (ROOT, ".py") if gallery else (ROOT / "docs", ".md")
    assert (folder / f"{check.page}{suffix}").exists()
    assert set(check.unless) <= set(doctor.CHECKS)


@pytest.mark.parametrize("targets", [True, False])
def test_a_model_that_is_not_trained_yet_is_not_accused(targets):
    """Its population is 0 and 1, which is not that of the data, and nobody has said it would be."""
    x, y = CLASSES()
    report = doctor.examine(_networks.dense(), (x, y) if targets else x)
    assert causes(report) == [] and "has not been trained" in report.undecided["never_updated"]


def test_the_model_comes_back_to_the_bit_with_its_optimizer_metrics_and_random_state():
    model = _networks.dense(before=[lambda: keras.layers.Dropout(0.5)])
    model.compile("adam", _networks.LOSS, metrics=["accuracy"])
    x, y = CLASSES()
    model.fit(x, y, verbose=0)
    before, optimizer = values(model), [each.numpy() for each in model.optimizer.variables]
    metrics = [each.numpy() for each in model.metrics_variables]
    np.random.seed(3)
    expected = np.random.random(4)
    np.random.seed(3)
    tf.random.set_seed(3)
    uniform = tf.random.uniform((4,)).numpy()
    tf.random.set_seed(3)
    doctor.examine(model, (x, y), (x, y))
    assert_same_values(model, before)
    for now, then in zip(model.optimizer.variables, optimizer, strict=True):
        np.testing.assert_array_equal(now, then)
    for now, then in zip(model.metrics_variables, metrics, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(np.random.random(4), expected)
    np.testing.assert_array_equal(tf.random.uniform((4,)), uniform)
    assert "call" not in vars(bnref.norms.find(model)[0].layer)


@since_keras(3, 13, "its first random number makes a generator, which draws its seed from Python's")
def test_whatever_code_of_the_callers_moves_or_draws_is_put_back():
    """The passes themselves restore what they move; a loss of the caller's does as it likes."""
    model, (x, y) = small(), CLASSES()
    model.compile("adam", _networks.LOSS, metrics=["accuracy"])
    model.fit(x[:64], y[:64], verbose=0)
    kinds = [model.variables, model.optimizer.variables, model.metrics_variables]
    before = [[each.numpy() for each in kind] for kind in kinds]
    drawn = []

    def draw():
        generator = tf.random.get_global_generator()
        numbers = tf.random.uniform(()), generator.uniform(()), keras.random.uniform(())
        return np.random.random(), random.random(), *map(float, numbers)

    def loss(y, outputs):
        drawn.append(draw())
        for variable in itertools.chain(*kinds):
            variable.assign(variable.numpy() + 1)
        return keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True)

    def seeded():
        keras.utils.set_random_seed(3)
        tf.random.set_global_generator(tf.random.Generator.from_seed(3))

    seeded()
    doctor.examine(model, (x, y), loss=loss, only=["stale_population"])
    found = [draw() for _ in range(len(drawn) + 1)]
    seeded()
    assert drawn and found == [draw() for _ in range(len(drawn) + 1)]
    for kind, values_then in zip(kinds, before, strict=True):
        assert values_then
        for now, then in zip(kind, values_then, strict=True):
            np.testing.assert_array_equal(now, then)


def test_the_replicas_own_populations_come_back_too():
    result_in_new_process(look_at_two_replicas)


def look_at_two_replicas():
    devices.configure(cpus=2)
    strategy = strategy_of(2)
    with strategy.scope():
        model = _networks.dense()
    x, y = CLASSES()
    model.fit(x[:256], y[:256], batch_size=32, verbose=0)
    mean = bnref.norms.find(model)[0].mean.value
    before = [np.array(each) for each in strategy.experimental_local_results(mean)]
    assert not np.array_equal(*before)
    doctor.examine(model, (x, y))
    for now, then in zip(strategy.experimental_local_results(mean), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_an_examination_that_fails_leaves_the_model_as_it_was():
    model, (x, y) = small(), CLASSES()
    before = values(model)

    def loss(y, outputs):
        raise RuntimeError("no loss")

    with pytest.raises(ValueError, match="loss must fit the targets and outputs .*no loss"):
        doctor.examine(model, (x, y), loss=loss)
    assert_same_values(model, before)
    assert "call" not in vars(bnref.norms.find(model)[0].layer)


def as_dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(32)


def as_batches(x, y):
    return [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(x), 32)]


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        as_dataset,
        as_batches,
        lambda x, y: iter(as_batches(x, y)),
        lambda x, y: (tf.constant(x), tf.constant(y)),
    ],
    ids=["arrays", "dataset", "list", "generator", "tensors"],
)
def test_data_of_every_form_give_the_same_finding(form):
    x, y = CLASSES()
    model = small()
    assert causes(doctor.examine(model, form(x, y))) == []
    report = doctor.examine(model, form(*(each[np.argsort(y)] for each in (x, y))))
    assert causes(report)[0] == "batches_not_shuffled"
    assert report.batch_size == 32 and report.batches == 16


def test_inputs_alone_are_enough_and_what_needs_targets_is_said_to_be_undecided():
    x, _ = CLASSES()
    report = doctor.examine(small(), 3 * x)
    assert causes(report) == ["stale_population"]
    assert "of their deviation" in report.findings[0].evidence
    assert "there are no targets" in report.undecided["batch_gives_the_answer"]
    assert "no validation data" in report.undecided["validation_of_another_kind"]


def nested():
    base = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, use_bias=False),
            keras.layers.BatchNormalization(name="inner"),
        ],
        name="base",
    )
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(4)(base(inputs)))


def with_tf_keras():
    import tf_keras

    return tf_keras.Sequential(
        [
            tf_keras.Input((8,)),
            tf_keras.layers.Dense(16),
            tf_keras.layers.BatchNormalization(name="inner"),
            tf_keras.layers.Dense(4),
        ]
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [nested, with_tf_keras, lambda: _used.Deaf(True)])
def test_models_of_every_make_are_examined(make):
    x, y = CLASSES()
    model = make()
    model(x[:2])
    bnref.population.recompute(model, np.split(x, 8))
    assert causes(doctor.examine(model, (x, y))) == []
    bnref.norms.find(model)[0].assign(np.full(16, 40.0), np.full(16, 9.0))
    report = doctor.examine(
        model, x
    )  # inputs alone: nothing was learnt, by which a loss would rise
    assert causes(report) == ["stale_population"]
    assert report.norms[0].path == report.findings[0].layers[0]
    assert report.norms[0].shift > 3


def two_inputs():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    z = keras.layers.BatchNormalization(momentum=0.9)(keras.layers.Concatenate()([a, b]))
    return keras.Model([a, b], keras.layers.Dense(4)(z))


def test_several_inputs_are_passed_as_fit_takes_them():
    x, y = CLASSES()
    model = _networks.compiled(two_inputs())
    model.fit([x, 2 * x], y, epochs=3, verbose=0)
    batches = [((x[i : i + 32], 2 * x[i : i + 32]), y[i : i + 32]) for i in range(0, 512, 32)]
    bnref.population.recompute(model, batches)
    assert causes(doctor.examine(model, batches)) == []
    assert causes(doctor.examine(model, ((x, 2 * x), y))) == []
    assert causes(doctor.examine(model, ((x, 9 * x + 30), y))) == ["stale_population"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m, x, y: (None, (x, y)), "model must be a Keras model; received NoneType"),
        (lambda m, x, y: (_used.Deaf(True), (x, y)), "model must be built: call it"),
        (
            lambda m, x, y: (keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), x),
            "model must have a batch norm; found none",
        ),
        (lambda m, x, y: (m, 3), "data must be an array, a pair .* received int"),
        (lambda m, x, y: (m, "x.npz"), "data must be an array, a pair .* received str"),
        (lambda m, x, y: (m, (x, y[:-1])), "data must hold equally many examples.*1023 and 1024"),
        (lambda m, x, y: (m, []), "data must hold at least one batch; received none"),
        (lambda m, x, y: (m, x[:0]), "data must hold equally many examples, one or more"),
        (lambda m, x, y: (m, np.where(x > 5, np.nan, x)), "data must be finite; received"),
        (lambda m, x, y: (m, x[:, :5]), r"data must be what the model takes; .*\(32, 5\)"),
        (lambda m, x, y: (m, x, 3), "validation must be an array"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    model, data, *validation = change(small(), *CLASSES())
    with pytest.raises(ValueError, match=message):
        doctor.examine(model, data, *validation)


def test_one_cause_alone_can_be_asked_for():
    x, y = CLASSES()
    model = small()
    sorted_data = x[np.argsort(y)], np.sort(y)
    report = doctor.examine(model, sorted_data, only=["batches_not_shuffled"])
    assert causes(report) == ["batches_not_shuffled"]
    report = doctor.examine(model, sorted_data, only=["few_steps", "dropout_before"])
    assert report.looked_at == ["few_steps", "dropout_before"]
    with pytest.raises(ValueError, match="only must hold names of CHECKS; received 'few'"):
        doctor.examine(model, x, only=["few"])


def test_what_a_finding_explains_is_neither_found_nor_looked_for():
    """A population that remembers the last batch alone is not that of the data either."""
    model, (x, y) = small(momentum=0.1), CLASSES()
    names = ["momentum_of_another_framework", "stale_population"]
    assert causes(doctor.examine(model, (3 * x + 9, y), only=names[1:])) == names[1:]
    report = doctor.examine(model, (3 * x + 9, y), only=names)
    assert causes(report) == names[:1] and not report.looked_at and not report.undecided


@pytest.mark.parametrize("batch_size", [0, 2.5, True])
def test_a_batch_size_that_is_none_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1"):
        doctor.examine(small(), CLASSES(), batch_size=batch_size)


def test_a_report_is_a_table_json_and_one_html_file(tmp_path):
    x, y = CLASSES()
    report = doctor.examine(small(), (2 * x + 3, y))
    finding = report.findings[0]
    text = str(report)
    assert finding.summary in " ".join(text.split()), "whatever the width of the lines"
    assert finding.fix.splitlines()[0] in text and finding.page in text
    assert max(map(len, text.splitlines())) <= 110
    report.to_json(tmp_path / "report.json")
    loaded = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert loaded["findings"][0]["cause"] == finding.cause == "stale_population"
    assert [each["path"] for each in loaded["norms"]] == [each.path for each in report.norms]
    page = report.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8") == page
    assert (
        finding.summary in page
        and page.count("<svg") == 2 * len(report.norms) + len(report.losses) > 2
    )
    assert "http" not in page and report._repr_html_() in page


def test_what_is_not_finite_is_null_in_json():
    report = doctor.examine(small(), CLASSES(), only=["few_steps"])
    losses = {"none": float("nan"), "endless": np.float32("inf"), "some": np.float64(0.5)}
    text = dataclasses.replace(report, losses=losses).to_json()
    assert json.loads(text)["losses"] == {"none": None, "endless": None, "some": 0.5}


class Foreign(keras.layers.Layer):
    """Another library's norm, as far as anybody can see."""

    def build(self, shape):
        self.moving_mean = self.add_weight(shape=shape[-1:], name="moving_mean", trainable=False)

    def call(self, x):
        return x - self.moving_mean


def test_a_layer_that_is_not_known_is_said_to_be_undecided():
    model = keras.Sequential(
        [keras.Input((8,)), Foreign(name="foreign"), keras.layers.BatchNormalization()]
    )
    x, _ = CLASSES()
    bnref.population.recompute(model, [x])
    report = doctor.examine(model, x)
    assert "Foreign of test_doctor" in report.undecided["foreign"]
    assert "foreign" in str(report)


def several_outputs():
    inputs = keras.Input((8,))
    z = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(inputs))
    outputs = {"class": keras.layers.Dense(4)(z), "size": keras.layers.Dense(1)(z)}
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"class": _networks.LOSS, "size": "mse"})
    return model


def test_several_outputs_are_compared_by_the_losses_that_the_model_was_compiled_with():
    x, y = CLASSES()
    model, targets = several_outputs(), {"class": y, "size": x[:, :1]}
    model.fit(x, targets, epochs=3, verbose=0)
    report = doctor.examine(model, (x, targets))
    assert causes(report) == [] and len(report.losses) == 3
    assert causes(doctor.examine(model, (x + 20, targets))) == ["stale_population"]

    def of_sizes(y, outputs):
        return keras.losses.mean_squared_error(y["size"], outputs["size"])

    own = doctor.examine(model, (x, targets), loss=of_sizes).losses
    assert own["at inference"] < report.losses["at inference"], "the caller's loss, of one output"


@pytest.mark.parametrize(
    "loss, targets", [("binary_crossentropy", (1024,)), ("mse", (1024, 1)), (None, (1024,))]
)
def test_targets_of_one_axis_less_are_taken_as_keras_takes_them(loss, targets):
    x, y = CLASSES()
    y = (y > 1).astype("float32").reshape(targets)
    inputs = keras.Input((8,))
    z = keras.layers.BatchNormalization(momentum=0.9)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(z))
    model.compile("adam", loss or "binary_crossentropy")
    model.fit(x, y, epochs=2, verbose=0)
    if loss is None:
        model.loss = None  # as of a model that is trained by hand
    assert len(doctor.examine(model, (x, y)).losses) == 3


def test_a_clean_report_says_what_was_looked_at():
    report = doctor.examine(small(), CLASSES())
    assert not report and "nothing found" in str(report) and "few_steps" in str(report)
    assert set(report.looked_at) | set(report.undecided) == set(doctor.CHECKS)


def test_what_is_written_in_html_is_text_and_no_markup():
    x, y = CLASSES()
    model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(name="<b>x")])
    assert "<b>x" not in doctor.examine(model, x).to_html()
    report = doctor.examine(model, x, only=["few_steps"])
    finding = doctor.Finding("<b>1", "<b>2", 1, ("<b>3",), "<b>4", "<b>5", "<b>6")
    full = dataclasses.replace(
        report, findings=[finding], looked_at=["<b>7"], undecided={"<b>8": "<b>9"}
    )
    page = full.to_html()
    assert "<b>" not in page
    assert all(f"&lt;b&gt;{number}" in page for number in range(2, 10))


# While fit runs.


def test_watch_says_a_finding_once_and_leaves_training_as_it_was(monkeypatch):
    for name in ("SHORTEST", "FIRST_STEPS_OF_A_LOOK"):
        monkeypatch.setattr(sys.modules["bnref.doctor._watch"], name, 0.0)
    x, y = CLASSES()
    order = np.argsort(y)
    data = x[order], y[order]
    results = []
    for watched in (True, False):
        keras.utils.set_random_seed(1)
        model = _networks.dense(before=[lambda: keras.layers.Dropout(0.1)])
        watch = doctor.Watch(data, share=1.0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model.fit(
                *data, epochs=4, verbose=0, shuffle=False, callbacks=[watch] if watched else []
            )
        results.append(values(model))
        if watched:
            messages = [str(each.message) for each in said if "To mend it" in str(each.message)]
            assert "batches_not_shuffled" in [each.cause for each in watch.findings]
            assert len(messages) == len(watch.findings) == len({*messages})
            assert watch.report is not None
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "steps, traced, expected",
    [
        # 64 steps are 1.28 s, so that 5 s are expected: 3 % of 167 s. The second look is taken to
        # cost 4.5 s, and comes when 7.5 s are 3 % of training: after 250 s.
        (500, 0, [0] * 16 + [1] * 8 + [2] * 10 + [3]),
        # 64 steps are 12.8 s: 3 % of 427 s. It takes 3 s, and so three more follow at once.
        (50, 0, [0] * 42 + [1, 2, 3] + [4] * 9 + [5]),
        # The first step, which is traced, takes 3 s, so that 12 s are expected: 3 % of 400 s.
        (500, 3, [0] * 39 + [1, 2, 3, 3, 3, 4]),
    ],
)
def test_watch_waits_until_training_pays_for_a_look(steps, traced, expected, monkeypatch):
    """A clock of its own: an epoch takes 10 s, and a look 3 s."""
    now, looks = [0.0], []
    module = sys.modules["bnref.doctor._watch"]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    report = doctor.examine(small(), CLASSES()[0])

    def look(*arguments, **options):
        now[0] += 3
        looks.append(now[0])
        return report

    monkeypatch.setattr(module, "examine", look)
    watch = doctor.Watch(CLASSES()[0])
    watch.on_train_begin()
    taken = []
    for epoch in range(len(expected)):
        for batch in range(steps):
            now[0] += traced if (epoch, batch) == (0, 0) else 0
            watch.on_train_batch_end(batch)
        now[0] += 10
        watch.on_epoch_end(epoch)
        taken.append(len(looks))
    assert taken == expected
    watch.on_train_end()
    assert len(looks) == expected[-1] + 1


@pytest.mark.parametrize("costs", [[3, 4, 5, 3.5, 7], [4.9, 1, 4.9, 7.2, 1]])
def test_watch_keeps_to_its_share_where_looks_take_longer_than_the_last(costs, monkeypatch):
    """A clock of its own: an epoch takes 10 s, and a look up to half as much again as before."""
    now, module, left = [0.0], sys.modules["bnref.doctor._watch"], list(costs)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    report = doctor.examine(small(), CLASSES()[0])

    def look(*arguments, **options):
        now[0] += left.pop(0)
        return report

    monkeypatch.setattr(module, "examine", look)
    watch = doctor.Watch(CLASSES()[0])
    watch.on_train_begin()
    for epoch in range(90):
        for batch in range(100):
            watch.on_train_batch_end(batch)
        now[0] += 10
        watch.on_epoch_end(epoch)
        assert sum(costs[: len(costs) - len(left)]) <= 0.03 * 10 * (epoch + 1)
    assert len(left) < 2, "and it does look"


def test_watch_says_what_two_looks_in_a_row_have_found_and_at_the_end_what_one_has(monkeypatch):
    now, module = [0.0], sys.modules["bnref.doctor._watch"]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    looks = iter([["a"], ["b"], ["a"], ["a"], ["a"], ["b", "c"]])

    def look(*arguments, **options):
        evidence = f"after {now[0]} s"
        found = [
            doctor.Finding(each, each, 1, ("norm",), evidence, "fix", "") for each in next(looks)
        ]
        return doctor.Report(found, [], {}, [], {}, 1, 1)

    monkeypatch.setattr(module, "examine", look)
    watch, said = doctor.Watch(CLASSES()[0], share=1.0), []
    watch.on_train_begin()
    for epoch in range(5):
        for batch in range(1000):
            watch.on_train_batch_end(batch)
        now[0] += 10 * (epoch + 1)
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            watch.on_epoch_end(epoch)
        said.append([str(each.message)[0] for each in messages])
    assert said == [[], [], [], ["a"], []]
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        watch.on_train_end()
    assert [str(each.message)[0] for each in messages] == ["b", "c"]
    assert [each.cause for each in watch.findings] == ["a", "b", "c"]


@pytest.mark.parametrize("share", [0, 2, True, "3 %"])
def test_watch_refuses_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="share must be a number above 0, at most 1; received"):
        doctor.Watch(CLASSES(), share=share)


# From the command line.


@pytest.fixture
def files(tmp_path):
    model, (x, y) = small(), CLASSES()
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "good.npz", x=x, y=y)
    np.savez(tmp_path / "other.npz", x=2 * x + 3, y=y)
    np.savez(tmp_path / "nox.npz", images=x)
    np.savez(tmp_path / "nan.npz", x=x * np.nan)
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "text.npz").write_text("no data")
    return tmp_path


def test_the_program_ends_with_0_where_nothing_is_found(files, capsys):
    status = program.main([str(files / "model.keras"), str(files / "good.npz")])
    assert status == 0 and "nothing found" in capsys.readouterr().out


def test_the_program_ends_with_1_where_something_is_found_and_writes_reports(files, capsys):
    arguments = [files / "model.keras", files / "other.npz", "--html", files / "r.html"]
    arguments += ["--json", files / "r.json", "--validation", files / "good.npz"]
    assert program.main([str(each) for each in arguments]) == 1
    assert "population" in capsys.readouterr().out
    assert "population" in (files / "r.html").read_text("utf-8")
    found = json.loads((files / "r.json").read_text("utf-8"))["findings"]
    assert "stale_population" in [each["cause"] for each in found]


def test_the_program_hands_on_what_it_is_given(files, monkeypatch):
    report, given = doctor.examine(small(), CLASSES(), only=["few_steps"]), []

    def look(model, data, validation, **options):
        given.append((data, validation, options))
        return report

    monkeypatch.setattr(program, "examine", look)
    arguments = [files / "model.keras", files / "good.npz", "--batch-size", 48]
    program.main([str(each) for each in [*arguments, "--validation", files / "other.npz"]])
    (((x, y), (others, _), options),) = given
    np.testing.assert_array_equal(x, CLASSES()[0])
    np.testing.assert_array_equal(y, CLASSES()[1])
    np.testing.assert_array_equal(others, 2 * x + 3)
    assert options == {"batch_size": 48}


@pytest.mark.parametrize(
    "model, data, message",
    [
        ("none.keras", "good.npz", "model must be a file; there is no"),
        ("text.keras", "good.npz", "model must be a .keras file"),
        ("model.keras", "none.npz", "data must be a file; there is no"),
        ("model.keras", "text.npz", "data must be an .npz file of numbers"),
        ("model.keras", "nox.npz", "data must hold x, or x and y; .*images"),
        ("model.keras", "nan.npz", "data must be finite"),
    ],
)
def test_the_program_ends_with_2_and_a_sentence_for_bad_input(files, capsys, model, data, message):
    assert program.main([str(files / model), str(files / data)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)
