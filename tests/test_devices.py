"""Tests of bnref.devices.

Logical devices can be configured once a process, so those tests start processes of their own.
"""

import pytest
import tensorflow as tf
from helpers import result_in_new_process

from bnref import devices
from bnref_gallery import scale


@pytest.fixture
def gpus(monkeypatch):
    """Make TensorFlow see the named GPUs."""

    def see(*names):
        def visible(device_type=None):
            return list(names) if device_type == "GPU" else []

        monkeypatch.setattr(tf.config, "get_visible_devices", visible)
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda name: {"device_name": name} if name else {},
        )

    return see


def logical_cpus():
    return len(tf.config.list_logical_devices("CPU"))


def assert_cpus_are_configured_once():
    assert devices.names(1) == ["CPU:0"]
    assert scale.describe().startswith("1 logical CPU device on ")
    assert devices.names(2) == ["CPU:0", "CPU:1"]
    assert scale.describe().startswith("8 logical CPU devices on ")
    assert logical_cpus() == 8
    devices.configure()
    devices.configure(cpus=3)
    assert devices.names(8)[-1] == "CPU:7"
    with tf.device("CPU:7"):
        assert tf.zeros(1).device.endswith("CPU:7")
    with pytest.raises(RuntimeError, match="9 logical CPU devices were asked for") as error:
        devices.names(9)
    assert "already started with 8" in str(error.value)
    assert "before the first TensorFlow operation" in str(error.value)


@pytest.mark.slow
def test_replicas_configure_cpus_once_and_say_so_when_it_is_too_late():
    result_in_new_process(assert_cpus_are_configured_once)


def assert_more_cpus_than_the_default_are_configured():
    assert devices.names(11)[-1] == "CPU:10" and devices.names(10)[-1] == "CPU:9"
    assert logical_cpus() == 11


@pytest.mark.slow
def test_more_replicas_than_the_default_are_configured():
    result_in_new_process(assert_more_cpus_than_the_default_are_configured)


def assert_three_cpus_are_enough():
    devices.configure(cpus=3)
    tf.zeros(1)
    assert devices.names(3) == ["CPU:0", "CPU:1", "CPU:2"]
    with pytest.raises(RuntimeError, match=r"started with 3.*configure\(cpus=8\)"):
        devices.configure()


@pytest.mark.slow
def test_a_process_started_with_enough_devices_is_not_asked_for_eight():
    result_in_new_process(assert_three_cpus_are_enough)


def test_gpus_are_used_when_there_is_one_for_every_replica(gpus, monkeypatch):
    configured = []
    monkeypatch.setattr(devices, "_logical_cpus", lambda: 1)
    monkeypatch.setattr(devices, "configure", lambda *, cpus: configured.append(cpus))
    gpus("first", "second")
    assert devices.names(1) == ["GPU:0"]
    assert devices.names(2) == ["GPU:0", "GPU:1"]
    assert configured == []
    assert devices.names(3) == ["CPU:0", "CPU:1", "CPU:2"]
    assert configured == [8]


def test_describe_names_the_gpus_before_the_processor(gpus, monkeypatch):
    monkeypatch.setattr(tf.config, "get_logical_device_configuration", lambda processor: [0] * 8)
    monkeypatch.setattr(scale, "cores", lambda: 16)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    gpus("H200", "T4", "H200", "")
    assert scale.describe() == (
        "2 x H200; T4; a GPU without a name; 8 logical CPU devices on 16 cores, riscv64"
    )


@pytest.mark.parametrize("function, name", [("names", "count"), ("configure", "cpus")])
@pytest.mark.parametrize("value", [0, -2, 2.0, "2", True])
def test_a_count_that_is_no_positive_integer_is_refused_by_name(function, name, value):
    message = f"^{name} must be a whole number, at least 1; received {value!r}$"
    with pytest.raises(ValueError, match=message):
        getattr(devices, function)(**{name: value})


@pytest.mark.parametrize("seen, expected", [((), "quick"), (("one",), "full")])
@pytest.mark.parametrize("unset", [None, ""])
def test_the_scale_is_full_where_a_gpu_is_seen(gpus, monkeypatch, seen, expected, unset):
    monkeypatch.delenv("BNREF_SCALE", raising=False)
    if unset is not None:
        monkeypatch.setenv("BNREF_SCALE", unset)
    gpus(*seen)
    assert scale.scale() == expected


@pytest.mark.parametrize("seen, wanted", [((), "full"), (("one",), "quick")])
def test_the_variable_decides_the_scale_against_the_device(gpus, monkeypatch, seen, wanted):
    monkeypatch.setenv("BNREF_SCALE", wanted)
    gpus(*seen)
    assert scale.scale() == wanted


def test_an_unknown_scale_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("BNREF_SCALE", "Full")
    with pytest.raises(ValueError, match="^BNREF_SCALE is 'Full'; accepted are .quick. and .full."):
        scale.scale()


@pytest.mark.parametrize("wanted, value", [("quick", 3), ("full", 10)])
def test_a_value_is_chosen_by_the_scale(monkeypatch, wanted, value):
    monkeypatch.setenv("BNREF_SCALE", wanted)
    assert scale.at_scale(quick=3, full=10) == value
