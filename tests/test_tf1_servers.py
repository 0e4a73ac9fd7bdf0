"""Tests of bnref.tf1.servers: that they start, compute, and leave nothing behind."""

import base64
import importlib
import re
import socket
import subprocess
import sys

import pytest
import tensorflow as tf

from bnref.tf1 import serve, servers

pytestmark = pytest.mark.slow
v1 = tf.compat.v1
module = importlib.import_module("bnref.tf1.servers")  # not the function of the same name


def listening():
    """Return a socket that listens on a port of the system's choice, and the port."""
    held = socket.create_server(("", 0))
    return held, held.getsockname()[1]


def free_ports(count):
    """Ports of the system's choice, that nothing listens at."""
    held = [listening() for _ in range(count)]
    for each, _ in held:
        each.close()
    return [port for _, port in held]


def assert_gone(processes, ports=()):
    """No process is left, and a server can be started at each port."""
    assert processes and all(each.returncode is not None for each in processes)
    for port in ports:
        socket.create_server(("", port)).close()


def sum_over(target, devices):
    """1 + 2 + ..., one summand a device."""
    with tf.Graph().as_default(), v1.Session(target) as opened:
        summands = []
        for number, device in enumerate(devices, 1):
            with v1.device(device):
                summands.append(tf.sqrt(v1.placeholder_with_default(float(number**2), [])))
        return opened.run(tf.add_n(summands))


@pytest.mark.parametrize("count", [1, 3])
def test_servers_compute_at_the_ports_given_until_the_block_ends(processes, count):
    ports = free_ports(count)
    with servers(count, ports=ports) as (target, devices):
        assert target == f"grpc://127.0.0.1:{ports[0]}"
        assert len(devices) == len(set(devices)) == count
        assert sum_over(target, devices) == sum(range(1, count + 1))
        for port in ports:
            socket.create_connection(("127.0.0.1", port)).close()
    assert len(processes) == 1
    assert_gone(processes, ports)


def test_servers_end_when_the_block_fails_and_the_failure_goes_on(processes):
    ports = free_ports(2)
    with pytest.raises(KeyError, match="within"), servers(2, ports=ports) as (target, devices):
        sum_over(target, devices)
        raise KeyError("within")
    assert_gone(processes, ports)


def test_two_blocks_at_once_are_two_clusters(processes):
    with servers(2) as (one, devices):
        with servers(2) as (two, _):
            assert one != two
            assert (sum_over(one, devices), sum_over(two, devices)) == (3, 3)
        assert [each.poll() is None for each in processes] == [True, False]
        assert sum_over(one, devices) == 3
    assert_gone(processes)


def test_a_port_whose_last_connection_has_just_ended_can_be_given():
    held, port = listening()
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = held.accept()
    accepted.close()  # the port's side first: the system keeps its address for a minute
    client.close()
    held.close()
    with servers(1, ports=[port]) as (target, devices):
        assert sum_over(target, devices) == 1


@pytest.mark.parametrize("count", [0, -1, True, 1.5, None])
def test_a_count_that_is_no_positive_integer_is_refused_by_name(processes, count):
    message = f"count must be an integer, 1 or more; received {count!r}"
    with pytest.raises(ValueError, match=re.escape(message)), servers(count):
        raise AssertionError("servers were started")
    assert not processes


@pytest.mark.parametrize(
    "ports, message",
    [
        ([], "ports must be 2 different ones; received []"),
        ([50001], "ports must be 2 different ones; received [50001]"),
        ([50001] * 2, "ports must be 2 different ones; received [50001, 50001]"),
        ([50001, 65536], "ports must be from 0 to 65535; received 65536"),
        ([-1, 50001], "ports must be from 0 to 65535; received -1"),
    ],
)
def test_ports_that_cannot_be_are_refused_by_name(processes, ports, message):
    with pytest.raises(ValueError, match=re.escape(message)), servers(2, ports=ports):
        raise AssertionError("servers were started")
    assert not processes


def test_a_port_in_use_is_refused_by_its_number(processes):
    held, port = listening()
    with held:
        for taken in ([port, *free_ports(1)], [*free_ports(1), port]):
            message = f"port {port} of ports cannot be used: .*in use"
            with pytest.raises(OSError, match=message), servers(2, ports=taken):
                raise AssertionError("servers were started")
    assert not processes


def ended(process):
    """The process, when it has ended by itself."""
    process.wait(60)
    return process


SCRIPTS = {
    "ends at once": ("import sys; sys.exit('what it said')", "they said: what it said"),
    "says nothing": ("", "they said: nothing"),
    "says no": ("import sys; print('no', flush=True); sys.stdin.read()", "they said: no"),
    "never answers": ("import sys; sys.stdin.read()", "they said: nothing"),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("waits", [False, True])
def test_servers_that_do_not_start_say_why_and_leave_no_process(
    monkeypatch, tmp_path, processes, script, waits
):
    code, message = SCRIPTS[script]
    (tmp_path / "serve.py").write_text(code)
    monkeypatch.setattr(serve, "__file__", str(tmp_path / "serve.py"))
    monkeypatch.setattr(module, "_SECONDS_TO_START", 1)
    if waits and script in ("ends at once", "says nothing"):
        make = module._process
        monkeypatch.setattr(module, "_process", lambda *given: ended(make(*given)))
    with pytest.raises(RuntimeError, match=f"did not start; {message}$"), servers(1):
        raise AssertionError("the block was entered")
    assert_gone(processes)


def test_servers_that_cannot_load_their_library_or_open_their_port_say_so(monkeypatch, processes):
    held, port = listening()
    with held, monkeypatch.context() as patch:
        patch.setattr(module, "_checked_ports", lambda *given: [port])
        with pytest.raises(RuntimeError, match=f"127.0.0.1:{port} did not .*server"), servers(1):
            raise AssertionError("the block was entered")
    monkeypatch.setattr(module, "_library", lambda: "/nowhere/libtensorflow_cc.so")
    with pytest.raises(RuntimeError, match="(?s)said: .*/nowhere/libtensorflow_cc"), servers(1):
        raise AssertionError("the block was entered")
    assert_gone(processes)


def test_without_the_library_of_tensorflow_nothing_is_started(monkeypatch, tmp_path, processes):
    monkeypatch.setattr(tf, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(RuntimeError, match=f"not in {tmp_path}$"), servers(1):
        raise AssertionError("the block was entered")
    assert not processes


def test_servers_may_say_more_than_anybody_reads(monkeypatch, tmp_path, processes):
    code = "import sys; sys.stderr.write('x' * 2**20); print('ready', flush=True); sys.stdin.read()"
    (tmp_path / "serve.py").write_text(code)
    monkeypatch.setattr(serve, "__file__", str(tmp_path / "serve.py"))
    with servers(1):
        assert processes[0].poll() is None
    assert_gone(processes)


@pytest.mark.parametrize("ready", [True, False])
def test_the_process_of_the_servers_ends_with_its_input(ready):
    (port,) = free_ports(1)
    cluster = tf.train.ClusterSpec({"bnref": [f"127.0.0.1:{port}"]}).as_cluster_def()
    definition = tf.train.ServerDef(
        cluster=cluster, job_name="bnref", task_index=0, protocol="grpc"
    )
    line = base64.b64encode(definition.SerializeToString()).decode() + "\n"
    command = [sys.executable, "-I", "-S", serve.__file__, str(module._library())]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            process.stdin.write(line + "\n" * ready)
            process.stdin.flush()
            if ready:
                assert process.stdout.readline() == "ready\n"
                socket.create_connection(("127.0.0.1", port)).close()
            assert process.poll() is None
            process.communicate(timeout=60)  # closes the input
        finally:
            process.kill()
    assert process.returncode == (0 if ready else 1)
    socket.create_server(("", port)).close()
