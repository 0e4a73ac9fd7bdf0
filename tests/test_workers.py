"""Tests of bnref.workers: who the others are, waiting for them, starting them. No training."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from bnref import workers
from bnref.training import strategy
from bnref.workers import _launcher as launcher
from bnref.workers import _rendezvous as rendezvous
from bnref.workers.__main__ import main
from bnref.workers._launcher import _free_ports

pytestmark = pytest.mark.slow
ADDRESSES = ("host-a:1", "host-b:2", "host-c:3")
LIMIT = 60  # seconds, for the day a wait does not end
ENOUGH = 5  # seconds for threads to find one another, on a busy machine too


@pytest.fixture
def told(monkeypatch):
    """Sets TF_CONFIG, to a text or to what becomes JSON."""
    return lambda value: monkeypatch.setenv(
        "TF_CONFIG", value if isinstance(value, str) else json.dumps(value)
    )


def cluster(index, addresses=ADDRESSES, job="worker"):
    return {"cluster": {"worker": list(addresses)}, "task": {"type": job, "index": index}}


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": {}}'])
def test_without_others_a_process_is_the_only_worker(told, text):
    told(text)
    assert workers.task().index == 0 and len(workers.task().addresses) == 1
    assert workers.meet(timeout=0) is None


@pytest.mark.parametrize("index", [0, 2])
def test_a_worker_knows_its_place_and_the_addresses_of_all(told, index):
    told(cluster(index))
    assert workers.task() == (index, ADDRESSES)


def test_a_chief_is_the_first_worker(told):
    jobs = {"worker": ["host-b:2", "host-c:3"], "chief": ["host-a:1"]}
    told({"cluster": jobs, "task": {"type": "worker", "index": 1}})
    assert workers.task() == (2, ADDRESSES)
    told({"cluster": jobs, "task": {"type": "chief", "index": 0}})
    assert workers.task() == (0, ADDRESSES)


@pytest.mark.parametrize(
    "value, said",
    [
        ("{", "TF_CONFIG cannot be used: Expecting property name"),
        ("[1]", "TF_CONFIG cannot be used"),
        (cluster(3), r"its task \('worker', 3\) is not one of"),
        (cluster(-1), r"its task \('worker', -1\) is not one of"),
        (cluster(0, ["host-a", "host-b:1"]), "the address 'host-a' is not host:port"),
        (cluster(0, ["a:1", "b:1", "a:1"]), "two tasks have the address 'a:1'; each needs its own"),
        (cluster(0, job="chief"), r"its task \('chief', 0\) is not one of"),
        ({"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}, "its cluster has the job 'ps'; accepted"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_with_what_is_wrong(told, value, said):
    told(value)
    with pytest.raises(ValueError, match=said):
        workers.task()


def test_the_number_of_devices_is_not_asked_of_one_of_several_workers(told):
    told(cluster(1))
    with pytest.raises(ValueError, match="replicas must not be given to one of several workers"):
        strategy(2)


def free_addresses(count):
    """Of ports that the system gives to no outgoing connection meanwhile."""
    return tuple(f"127.0.0.1:{port}" for port in _free_ports(count))


@pytest.fixture
def meet(monkeypatch):
    """Runs ``meet`` for several workers at once, each in a thread, and returns their errors."""
    own = threading.local()
    monkeypatch.setattr(rendezvous, "task", lambda: own.task)

    def run(addresses, indices, timeout):
        errors = {}

        def one(index):
            own.task = rendezvous.Task(index, addresses)
            try:
                workers.meet(timeout=timeout)
                errors[index] = None
            except (OSError, TimeoutError) as error:
                errors[index] = error

        threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in indices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert len(errors) == len(indices), "a wait did not end"
        return errors

    return run


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_go_on_when_all_have_started_and_their_ports_are_free_then(meet, count):
    addresses = free_addresses(count)
    errors = meet(addresses, range(count), 30)
    assert errors == dict.fromkeys(range(count))
    for address in addresses:
        socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))).close()


def test_every_worker_that_waited_names_every_one_that_did_not_come(meet):
    addresses = free_addresses(4)
    errors = meet(addresses, [0, 2], ENOUGH)
    for index, error in errors.items():
        assert isinstance(error, TimeoutError)
        assert f"worker {index} of 4 waited {ENOUGH} s" in str(error)
        assert f"worker 1 ({addresses[1]}), worker 3 ({addresses[3]})" in str(error)


def test_without_the_first_the_others_name_it(meet):
    addresses = free_addresses(3)
    for error in meet(addresses, [1, 2], 0.5).values():
        assert f"did not hear from worker 0 ({addresses[0]}). Start every worker" in str(error)


def test_a_strangers_call_to_the_first_worker_is_no_worker(meet):
    addresses = free_addresses(2)
    port = int(addresses[0].rpartition(":")[2])
    stop = threading.Event()

    def strange():
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as call:
                    call.sendall(b"GET / HTTP/1.1\r\n")
            except OSError:
                pass

    stranger = threading.Thread(target=strange, daemon=True)
    stranger.start()
    try:
        errors = meet(addresses, [0], 0.5)
    finally:
        stop.set()
        stranger.join(LIMIT)
    assert f"did not hear from worker 1 ({addresses[1]})" in str(errors[0])


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_that_is_taken_is_named(meet, taken):
    addresses = free_addresses(2)
    port = int(addresses[taken].rpartition(":")[2])
    with socket.create_server(("", port)):
        errors = meet(addresses, [0, 1], 1)
    assert f"worker {taken} cannot listen at port {port}" in str(errors[taken])
    assert f"worker {taken} ({addresses[taken]})" in str(errors[1 - taken])


SCRIPT = """
import json, os, pathlib, signal, sys, time
config, (folder, *rest) = json.loads(os.environ["TF_CONFIG"]), sys.argv[1:]
index = config["task"]["index"]
told = {"arguments": rest, "pid": os.getpid(), "addresses": config["cluster"]["worker"]}
unfinished = pathlib.Path(folder, f"{index}.unfinished")
unfinished.write_text(json.dumps({**told, "extra": os.environ.get("EXTRA")}))
unfinished.rename(unfinished.with_suffix(""))
if rest == ["saves"]:
    def save(*_):
        pathlib.Path(folder, f"saved-{index}").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    pathlib.Path(folder, f"ready-{index}").touch()
if rest == ["fails", str(index)]:
    sys.exit(3)
if rest[:1] in (["fails"], ["stays"], ["saves"]):
    time.sleep(600)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def said_by(folder, index):
    return json.loads((folder / str(index)).read_text())


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_worker_gets_the_script_the_arguments_its_place_and_an_address(script, tmp_path):
    workers.start(script, 3, str(tmp_path), "a b", "-c", environment={"EXTRA": "1"}, timeout=60)
    told = [said_by(tmp_path, index) for index in range(3)]
    assert [each["arguments"] for each in told] == [["a b", "-c"]] * 3
    assert {each["extra"] for each in told} == {"1"} and len({each["pid"] for each in told}) == 3
    assert len(set(told[0]["addresses"])) == 3
    assert told[0]["addresses"] == told[1]["addresses"] == told[2]["addresses"]
    assert all(each.startswith("127.0.0.1:") for each in told[0]["addresses"])


def test_two_launches_from_the_same_random_state_have_other_ports(script, tmp_path):
    """As two programs have that both begin by setting the same seed."""
    seen = []
    for _ in range(2):
        random.seed(0)
        workers.start(script, 2, str(tmp_path), timeout=60)
        seen.append(said_by(tmp_path, 0)["addresses"])
    assert seen[0] != seen[1]


def test_what_the_workers_print_goes_where_it_is_wanted(tmp_path):
    path = tmp_path / "prints.py"
    # One write each: of `print` the line and its end may be two, with the other's between them.
    path.write_text("import os; os.write(1, b'to one\\n'); os.write(2, b'to the other\\n')")
    with (tmp_path / "output").open("w") as output:
        workers.start(path, 2, output=output, timeout=60)
    lines = (tmp_path / "output").read_text().splitlines()
    assert sorted(lines) == ["to one", "to one", "to the other", "to the other"]


def test_a_worker_that_fails_takes_the_others_along_and_is_named_first(script, tmp_path, processes):
    with pytest.raises(RuntimeError, match="^worker 1 ended with status 3; worker 0 was ended 0 s"):
        workers.start(script, 2, str(tmp_path), "fails", "1", grace=0, timeout=60)
    assert [each.returncode for each in processes] == [-signal.SIGKILL, 3]
    assert not any(running(each.pid) for each in processes)


def test_after_a_failure_the_others_have_the_grace_and_not_the_whole_time(monkeypatch):
    """By a clock of the test's own, which sleeping moves on."""
    clock = [0.0]
    monkeypatch.setattr(launcher.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(launcher.time, "sleep", lambda pause: clock.append(clock.pop() + pause))
    runs, fails = (type("Process", (), {"poll": lambda self, s=s: s})() for s in (None, 3))
    with pytest.raises(RuntimeError, match="worker 1 ended with status 3; worker 0 was ended 7 s"):
        launcher._wait([runs, fails], 1000, 7)
    assert 7 <= clock[0] < 8


def test_workers_that_stay_are_ended_after_the_time_given(script, tmp_path, processes):
    with pytest.raises(TimeoutError, match=r"workers \[0, 1\] had not ended after 2 s, and were"):
        workers.start(script, 2, str(tmp_path), "stays", timeout=2)
    assert [each.returncode for each in processes] == [-signal.SIGKILL] * 2
    assert not any(running(each.pid) for each in processes)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_a_count_that_is_none_is_refused(script, count):
    with pytest.raises(ValueError, match="count must be a whole number, at least 1; received"):
        workers.start(script, count)


def test_a_script_that_is_not_there_is_named_before_anything_starts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"script: there is no file '.*nothing.py'"):
        workers.start(tmp_path / "nothing.py", 2)


def command(*words):
    """The exit status of ``python -m bnref.workers`` with these words."""
    try:
        return main([str(word) for word in words])
    except SystemExit as error:
        return error.code


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    """What `main` sets for the process that it is."""
    monkeypatch.setenv("TF_CONFIG", "")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_command_starts_workers_and_gives_their_status_on(script, tmp_path, capfd):
    assert command(2, script, tmp_path, "x", "--y", "1") == 0
    assert said_by(tmp_path, 1)["arguments"] == ["x", "--y", "1"]
    assert command(1, script, tmp_path, "fails", "0") == 1
    assert "bnref.workers: worker 0 ended with status 3" in capfd.readouterr().err


def test_the_command_is_one_of_several_machines(script, tmp_path):
    """The script takes the command's place: its number is that of the process, and its status."""
    words = ["--hosts", ",".join(ADDRESSES), "--index", "2", script, tmp_path, "fails", "2"]
    with subprocess.Popen([sys.executable, "-m", "bnref.workers", *words]) as process:
        assert process.wait(LIMIT) == 3
    told = said_by(tmp_path, 2)
    assert told["addresses"] == list(ADDRESSES) and told["pid"] == process.pid
    assert told["arguments"] == ["fails", "2"]


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "give a count and a script"),
        (["train.py"], "give a count and a script"),
        (["--hosts", "a:1,b:1", "train.py"], "--hosts and --index go together"),
        (["--hosts", "a:1,b", "--index", "0", "train.py"], "the address 'b' is not host:port"),
        (["--hosts", "a:1,a:1", "--index", "0", "train.py"], "two tasks have the address 'a:1'"),
        (["--hosts", "a:1,b:1", "--index", "2", "train.py"], "its task ('worker', 2) is not one"),
        (["2", "nothing.py"], "there is no file 'nothing.py'"),
        (["0", __file__], "count must be a whole number, at least 1; received 0"),
    ],
)
def test_a_command_that_cannot_be_run_says_what_is_accepted(words, said, capsys):
    assert command(*words) in (1, 2)
    assert said in capsys.readouterr().err


def ended(words, files):
    """The status of a command that is told to end once all files are there."""
    ends = time.monotonic() + LIMIT
    with subprocess.Popen([sys.executable, "-m", "bnref.workers", *words]) as one:
        try:
            while not all(file.exists() for file in files):
                assert one.poll() is None
                assert time.monotonic() < ends, "the workers have not begun"
            one.send_signal(signal.SIGTERM)
            return one.wait(LIMIT)
        finally:
            one.kill()


def test_ended_from_outside_the_command_ends_its_workers(script, tmp_path):
    files = [tmp_path / "0", tmp_path / "1"]
    assert ended(["2", script, tmp_path, "stays"], files) == 128 + signal.SIGTERM
    assert not any(running(said_by(tmp_path, i)["pid"]) for i in range(2))


@pytest.mark.parametrize("words, count", [(["2"], 2), (["--hosts", "a:1,b:1", "--index", "0"], 1)])
def test_what_ends_the_command_is_passed_on_so_that_workers_can_save(
    script, tmp_path, words, count
):
    ready = [tmp_path / f"ready-{index}" for index in range(count)]
    assert ended([*words, script, tmp_path, "saves"], ready) == 128 + signal.SIGTERM
    for index in range(count):
        assert (tmp_path / f"saved-{index}").exists()
        assert not running(said_by(tmp_path, index)["pid"])
