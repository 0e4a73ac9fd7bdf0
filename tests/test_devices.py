"""Tests of bnref.devices.

Logical devices can be configured once a process, so those tests start processes of their own.
"""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from bnref import devices
from bnref_gallery import scale

STARTED = "import tensorflow as tf\nfrom bnref import devices\nfrom bnref_gallery import scale\n"


def in_new_process(code):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", STARTED + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


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


def test_replicas_configure_cpus_once_and_say_so_when_it_is_too_late():
    lines = in_new_process(
        "print(devices.names(1), scale.describe())\n"
        "print(devices.names(2), scale.describe())\n"
        "print(len(tf.config.list_logical_devices('CPU')))\n"
        "devices.configure(); devices.configure(cpus=3)\n"
        "print(devices.names(8)[-1])\n"
        "with tf.device('CPU:7'): print(tf.zeros(1).device[-5:])\n"
        "try: devices.names(9)\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert lines[0].startswith("['CPU:0'] 1 logical CPU device on ")
    assert lines[1].startswith("['CPU:0', 'CPU:1'] 8 logical CPU devices on ")
    assert lines[2:5] == ["8", "CPU:7", "CPU:7"]
    assert "9 logical CPU devices were asked for" in lines[5]
    assert "already started with 8" in lines[5]
    assert "before the first TensorFlow operation" in lines[5]


def test_more_replicas_than_the_default_are_configured():
    lines = in_new_process(
        "print(devices.names(11)[-1], devices.names(10)[-1])\n"
        "print(len(tf.config.list_logical_devices('CPU')))\n"
    )
    assert lines == ["CPU:10 CPU:9", "11"]


def test_a_process_started_with_enough_devices_is_not_asked_for_eight():
    lines = in_new_process(
        "devices.configure(cpus=3); tf.zeros(1)\n"
        "print(devices.names(3))\n"
        "try: devices.configure()\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert lines[0] == "['CPU:0', 'CPU:1', 'CPU:2']"
    assert "configure(cpus=8)" in lines[1] and "started with 3" in lines[1]


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
