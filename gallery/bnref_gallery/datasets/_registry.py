"""What is known of each data set: its files, their digests, its default and its terms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._dataset import of_images
from ._parsing import cifar10_binary, embedded_mnist, mnist_in_colour, npz, recordings
from ._speech import of_utterances
from ._synthetic_speech import synthetic_voice


@dataclass(frozen=True)
class File:
    """One file of a source; `digest` is ``<algorithm>:<hexadecimal>``."""

    name: str
    digest: str
    parse: Callable
    address: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class Default:
    """What is read where no file is found; a stand-in can come under other terms."""

    read: Callable
    stand_in: str | None
    licence: str
    citation: str


@dataclass(frozen=True)
class Entry:
    """What is known of one data set."""

    own: File
    cached: File | None  # None: nothing that Keras could have downloaded
    default: Default
    licence: str
    citation: str
    make: Callable = of_images  # from arrays and terms to what `load` returns


def entry_of(name):
    """Return what is known of the data set of this name, or refuse the name."""
    if name not in list(REGISTRY):
        raise ValueError(f"name is {name!r}; accepted are {', '.join(map(repr, REGISTRY))}")
    return REGISTRY[name]


_MNIST_TERMS: dict[str, Any] = {
    "licence": "CC BY-SA 3.0",
    "citation": "Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten "
    "digits, 1998",
}
REGISTRY = {
    "mnist": Entry(
        own=File(
            "mnist.npz",
            "sha256:06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64",
            npz,
        ),
        cached=File(
            "mnist.npz",
            "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
            npz,
            address="https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        ),
        default=Default(
            embedded_mnist,
            "a stand-in: 5,000 of MNIST's 70,000 images, all from its training set",
            **_MNIST_TERMS,
        ),
        **_MNIST_TERMS,
    ),
    "cifar10": Entry(
        own=File(
            "cifar10.npz",
            "sha256:526d19ecf38091605e5277ff6e09236f1bee90255452b66ad0c50969c5a81aa7",
            npz,
            remark=", without the 23 test images that it holds only approximately",
        ),
        # Not the copy that Keras itself would download, which is pickled.
        cached=File(
            "cifar-10-binary.tar.gz",
            "md5:c32a1d4ab5d03f1284b67883e8d13530",
            cifar10_binary,
            address="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        ),
        default=Default(
            mnist_in_colour,
            "a stand-in: not CIFAR-10 but 5,000 images of MNIST, padded to 32 x 32 pixels and "
            "repeated on three channels",
            **_MNIST_TERMS,
        ),
        licence="none stated; cite it",
        citation="A. Krizhevsky, Learning multiple layers of features from tiny images, 2009",
    ),
    "speech": Entry(
        own=File(
            "speech.npz",
            "sha256:ce478ef39ef25425130cc0417cbcaeb3b6480d1262f60370d60e9c8dce75c7fb",
            recordings,
        ),
        cached=None,
        default=Default(
            synthetic_voice,
            "a stand-in: no speech, but a signal with the structure of utterances",
            licence="that of this package",
            citation="none",
        ),
        licence="CC BY-SA 3.0",
        citation="Asterisk core sounds, recorded by Allison Smith",
        make=of_utterances,
    ),
}
