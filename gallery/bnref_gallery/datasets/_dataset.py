"""What a page gets: images and labels, with where they came from."""

from dataclasses import dataclass, field, replace
from numbers import Integral

import numpy as np


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, with where they came from.

    The arrays are read-only, because several pages of one build share them.

    Parameters
    ----------
    name : str
        The name `load` knows it by.
    x_train, x_test : numpy.ndarray
        Images, float32 in [0, 1], of shape (N, H, W, C).
    y_train, y_test : numpy.ndarray
        Labels, int32, of shape (N,).
    source : str
        Where these bytes came from.
    licence, citation : str
        The terms of the data, and whom to cite.
    stand_in : str or None
        How this differs from the real and full data set, or None if it does not.
    """

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    source: str
    licence: str
    citation: str
    stand_in: str | None = None

    def __post_init__(self):
        """Give out the arrays as read-only views; the caller's own stay writable."""
        for name in ("x_train", "y_train", "x_test", "y_test"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __str__(self):
        """Return the line a page prints about its data."""
        line = (
            f"{self.name} from {self.source}: {len(self.x_train):,} training and "
            f"{len(self.x_test):,} test images; licence: {self.licence}"
        )
        return f"{line}; {self.stand_in}" if self.stand_in else line

    def take(self, *, train: int, test: int, seed: int = 0) -> "Dataset":
        """Choose some of the images at random.

        The same seed chooses the same images, and a smaller choice is the beginning of a larger.

        Parameters
        ----------
        train, test : int
            How many images of each half, from 1 to as many as there are.
        seed : int
            Seed of ``numpy.random.default_rng``, 0 or more.

        Returns
        -------
        Dataset
            The chosen images, in random order; `source` tells of the choice.

        Raises
        ------
        ValueError
            If an argument is out of its range or no integer.
        """
        _check_integer("train", train, 1, len(self.x_train))
        _check_integer("test", test, 1, len(self.x_test))
        _check_integer("seed", seed, 0, None)
        # A generator a half, so that the training images do not depend on `test`.
        train_index = np.random.default_rng([seed, 0]).permutation(len(self.x_train))[:train]
        test_index = np.random.default_rng([seed, 1]).permutation(len(self.x_test))[:test]
        return replace(
            self,
            x_train=self.x_train[train_index],
            y_train=self.y_train[train_index],
            x_test=self.x_test[test_index],
            y_test=self.y_test[test_index],
            source=f"{self.source} (drawn with seed {seed} from {len(self.x_train):,} training and "
            f"{len(self.x_test):,} test images)",
        )


def _check_integer(name, value, least, most):
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer, {bounds}; received {value!r}")


def of_images(arrays, **about):
    """Make a data set of arrays of pixels and labels, uint8."""
    x_train, y_train, x_test, y_test = arrays
    return Dataset(
        x_train=_images(x_train),
        y_train=y_train.reshape(-1).astype(np.int32),
        x_test=_images(x_test),
        y_test=y_test.reshape(-1).astype(np.int32),
        **about,
    )


def _images(pixels):
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]  # (N, H, W) -> (N, H, W, 1)
    return np.divide(pixels, 255, dtype=np.float32, order="C")
