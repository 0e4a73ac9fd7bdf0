"""What a page gets of speech: utterances, and the frames of a network that removes noise."""

from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

WINDOW = 512  # samples of a frame
HOP = 256  # samples from one frame to the next
_FLOOR = 1e-6  # power below that of the quietest recorded noise; it keeps the logarithm finite


class Frames(NamedTuple):
    """Frames of noisy speech and of the same speech clean, utterance after utterance.

    Attributes
    ----------
    noisy, clean : array, shape (N, 257)
        Log power of each frame's frequencies; each of mean 0 and variance 1 over training frames.
    neighbours : array of int, shape (N, 2·context + 1)
        The frames around each one, itself in the middle; the first and last of an utterance stand
        for those before and after it.
    starts : array of int, shape (utterances + 1,)
        Utterance u is frames ``starts[u]`` to ``starts[u + 1] - 1``.
    """

    noisy: np.ndarray
    clean: np.ndarray
    neighbours: np.ndarray
    starts: np.ndarray

    def inputs(self, index: np.ndarray) -> np.ndarray:
        """The noisy frames around each of the frames ``index``, shape (len(index), 257·(…))."""
        return self.noisy[self.neighbours[index]].reshape(len(index), -1)


@dataclass(frozen=True, eq=False)
class Speech:
    """Utterances of speech, with where they came from.

    Parameters
    ----------
    name : str
        The name `load` knows it by.
    utterances : tuple of numpy.ndarray
        Each float32 in [-1, 1), of shape (samples,), read-only.
    sample_rate : int
        Samples a second.
    source, licence, citation, stand_in : str
        As those of `Dataset`.
    """

    name: str
    utterances: tuple = field(repr=False)
    sample_rate: int
    source: str
    licence: str
    citation: str
    stand_in: str | None = None

    def __post_init__(self):
        """Make the utterances read-only."""
        for utterance in self.utterances:
            utterance.flags.writeable = False

    def __str__(self):
        """Return the line a page prints about its data."""
        minutes = sum(map(len, self.utterances)) / self.sample_rate / 60
        line = (
            f"{self.name} from {self.source}: {len(self.utterances)} utterances, {minutes:.1f} "
            f"minutes; licence: {self.licence}"
        )
        return f"{line}; {self.stand_in}" if self.stand_in else line

    def denoising(
        self,
        *,
        context: int = 3,
        snr: tuple[float, float] = (-5, 15),
        test: float = 0.2,
        seed: int = 0,
    ) -> tuple[Frames, Frames]:
        """The regression of the post "noisy validation": frames with noise in, without it out.

        Each utterance gets white noise at a ratio of its own, so that the frames of one are more
        alike than those of two. A frame is 512 samples under Hann's window, every 256 samples, and
        becomes the logarithm of its power at 257 frequencies. Needs NumPy alone.

        Parameters
        ----------
        context : int, ≥ 0
            Frames on each side of the one to be cleaned that the network sees too.
        snr : (float, float)
            Least and greatest signal-to-noise ratio of an utterance, in decibels.
        test : float, 0 < test < 1
            The share of the utterances that is kept for testing.
        seed : int, ≥ 0
            Of the noise, and of the choice of test utterances.

        Returns
        -------
        train, test : Frames

        Raises
        ------
        ValueError
            If an argument is out of its range, or a half would have no utterance.
        """
        _check_denoising(context, snr, test, seed)
        random = np.random.default_rng(seed)
        order = random.permutation(len(self.utterances))
        kept = round(test * len(order))
        if not 0 < kept < len(order):
            raise ValueError(
                f"test must leave utterances on both sides; received {test!r}, which keeps {kept} "
                f"of {len(order)}"
            )
        halves = [self._spectra(half, snr, random) for half in (order[kept:], order[:kept])]
        scales = [(each.mean(0), each.std(0)) for each in halves[0][:2]]

        def frames(noisy, clean, starts):
            noisy, clean = (
                (each - m) / s for each, (m, s) in zip((noisy, clean), scales, strict=True)
            )
            return Frames(noisy, clean, _neighbours(starts, context), starts)

        for_training, for_testing = halves
        return frames(*for_training), frames(*for_testing)

    def _spectra(self, chosen, snr, random):
        """Log powers of the chosen utterances, noisy and clean, and where each begins."""
        noisy, clean = [], []
        for signal in (self.utterances[number] for number in chosen):
            ratio = 10 ** (random.uniform(*snr) / 20)
            noise = random.standard_normal(len(signal), np.float32) * signal.std() / ratio
            noisy.append(log_power(signal + noise))
            clean.append(log_power(signal))
        starts = np.cumsum([0, *map(len, clean)])
        return np.concatenate(noisy), np.concatenate(clean), starts


def of_utterances(parsed, **about):
    """Make a data set of utterances and their sample rate."""
    utterances, rate = parsed
    return Speech(utterances=utterances, sample_rate=rate, **about)


def log_power(signal):
    """Log power of each frame at each frequency, shape (frames, 257), float32."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::HOP]
    spectra = np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1].astype(np.float32))
    return np.log(np.square(np.abs(spectra)) + _FLOOR).astype(np.float32)


def _neighbours(starts, context):
    around = np.arange(starts[-1])[:, None] + np.arange(-context, context + 1)
    lengths = np.diff(starts)
    first, last = np.repeat(starts[:-1], lengths), np.repeat(starts[1:] - 1, lengths)
    return np.clip(around, first[:, None], last[:, None])


def _check_denoising(context, snr, test, seed):
    for name, value in (("context", context), ("seed", seed)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} must be a whole number, 0 or more; received {value!r}")
    numbers = isinstance(snr, tuple | list) and all(isinstance(each, Real) for each in snr)
    if not numbers or len(snr) != 2 or not -np.inf < snr[0] <= snr[1] < np.inf:
        raise ValueError(f"snr must be two numbers of decibels, least first; received {snr!r}")
    if not isinstance(test, Real) or not 0 < test < 1:
        raise ValueError(f"test must be a number between 0 and 1; received {test!r}")
