"""Tests of the speech data set: recordings, their stand-in, and the frames made of them."""

import hashlib
import io

import numpy as np
import pytest

from bnref_gallery.datasets import Speech, available, load
from bnref_gallery.datasets._parsing import recordings
from bnref_gallery.datasets._registry import REGISTRY
from bnref_gallery.datasets._speech import log_power

ABOUT = {"name": "speech", "source": "a test", "licence": "none", "citation": "none"}
RANDOM = np.random.default_rng(5)
LENGTHS = (4000, 1000, 2600, 3000, 700)


def speech(lengths=LENGTHS):
    random = np.random.default_rng(1)
    waves = [random.normal(0, 0.01 * (i + 1), n).astype("f4") for i, n in enumerate(lengths)]
    return Speech(utterances=tuple(waves), sample_rate=8000, **ABOUT)


def reference_power(frame):
    """Log power by the definition of the transform, in float64."""
    n = np.arange(512)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 512)
    transform = np.exp(-2j * np.pi * np.outer(np.arange(257), n) / 512)
    return np.log(np.abs(transform @ (frame.astype("f8") * window)) ** 2 + 1e-6)


def test_a_frame_becomes_the_log_of_its_power_at_257_frequencies():
    signal = RANDOM.normal(0, 0.1, 2000).astype("f4")
    power = log_power(signal)
    assert power.shape == (6, 257) and power.dtype == np.float32  # (2000 - 512) // 256 + 1
    for number in (0, 1, 5):
        frame = signal[256 * number : 256 * number + 512]
        np.testing.assert_allclose(power[number], reference_power(frame), atol=2e-3)


def test_the_archive_is_cut_at_its_offsets_and_scaled():
    audio = RANDOM.integers(-(2**15), 2**15, 20).astype("i2")
    file = io.BytesIO()
    np.savez(file, audio=audio, offsets=np.array([0, 3, 11, 20]), sample_rate=np.int32(8000))
    pieces, rate = recordings(file.getvalue())
    assert rate == 8000 and [len(piece) for piece in pieces] == [3, 8, 9]
    np.testing.assert_array_equal(np.concatenate(pieces) * 32768, audio)


def test_the_clean_frames_are_those_of_the_utterances_normalized_over_training():
    data = speech()
    train, test = data.denoising(test=0.4, seed=3)
    order = np.random.default_rng(3).permutation(5)
    kept, rest = order[:2], order[2:]
    raw = np.concatenate([log_power(data.utterances[i]) for i in rest])
    mean, std = raw.mean(0), raw.std(0)
    np.testing.assert_allclose(train.clean, (raw - mean) / std, atol=1e-5)
    raw = np.concatenate([log_power(data.utterances[i]) for i in kept])
    np.testing.assert_allclose(test.clean, (raw - mean) / std, atol=1e-5)
    np.testing.assert_allclose(train.noisy.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(train.noisy.std(0), 1, atol=1e-4)
    assert np.diff(train.starts).tolist() == [len(log_power(data.utterances[i])) for i in rest]
    assert test.starts[-1] == len(test.noisy) == len(test.clean)


def test_the_noise_of_an_utterance_has_the_asked_ratio():
    data = speech((80_000, 80_000, 80_000))
    # White noise on white signals: at 10 dB the power grows by a tenth, at 0 dB it doubles.
    for chosen, decibels, growth in ((0, 10, 1.1), (2, 0, 2)):
        noisy, clean, _ = data._spectra([chosen], (decibels, decibels), np.random.default_rng(0))
        assert np.mean(noisy - clean) == pytest.approx(np.log(growth), abs=0.02)


@pytest.mark.parametrize("context", [0, 1, 3])
def test_neighbours_stay_within_their_utterance(context):
    train, _ = speech().denoising(context=context, test=0.4)
    for first, end in zip(train.starts, train.starts[1:], strict=False):
        for row in range(first, end):
            near = [min(max(row + k, first), end - 1) for k in range(-context, context + 1)]
            assert train.neighbours[row].tolist() == near
    index = np.array([0, train.starts[1], train.starts[-1] - 1])
    inputs = train.inputs(index)
    assert inputs.shape == (3, 257 * (2 * context + 1))
    middle = inputs[:, 257 * context : 257 * (context + 1)]
    np.testing.assert_array_equal(middle, train.noisy[index])


def test_the_same_seed_gives_the_same_frames_and_another_gives_others():
    first, again, other = (speech().denoising(test=0.4, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.noisy, again.noisy)
    assert first.noisy.shape != other.noisy.shape or not np.allclose(first.noisy, other.noisy)


@pytest.mark.parametrize(
    "argument, value",
    [
        ("context", -1), ("context", 1.5), ("context", True), ("seed", -1), ("seed", "0"),
        ("snr", (5, -5)), ("snr", 3), ("snr", (0, np.inf)), ("snr", ("a", "b")), ("snr", (1, 2, 3)),
        ("test", 0), ("test", 1), ("test", "half"), ("test", 0.01), ("test", 0.99),
    ],
)  # fmt: skip
def test_an_impossible_argument_is_named(argument, value):
    with pytest.raises(
        ValueError,
        match=f"^{argument} must .*received {value!r}".replace("(", r"\(").replace(")", r"\)"),
    ):
        speech().denoising(**{argument: value})


def test_without_the_file_a_synthesis_stands_in_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("BNREF_DATA", "")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert available("speech") == "embedded"
    data = load("speech")
    assert data.stand_in and data.stand_in in str(data) and "no speech" in data.stand_in
    seconds = np.array([len(each) for each in data.utterances]) / data.sample_rate
    assert seconds.min() > 0.5 and seconds.max() < 15 and len(seconds) == 150
    assert max(np.abs(each).max() for each in data.utterances) < 1
    train, _ = data.denoising()
    assert np.isfinite(train.noisy).all() and np.isfinite(train.clean).all()
    # What makes it speech for the page: frames of one utterance are more alike than of two.
    means = [train.noisy[a:b].mean(0) for a, b in zip(train.starts, train.starts[1:], strict=False)]
    frames = np.diff(train.starts).mean()
    assert np.var(means, axis=0).mean() > 10 / frames


def test_a_damaged_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("BNREF_DATA", str(tmp_path))
    (tmp_path / "speech.npz").write_bytes(b"not an archive")
    digest = hashlib.sha256(b"not an archive").hexdigest()
    with pytest.raises(ValueError, match=digest):
        load("speech")


def test_utterances_are_read_only():
    data = speech()
    with pytest.raises(ValueError, match="read-only"):
        data.utterances[0][0] = 1


def test_speech_has_no_file_in_keras_cache():
    assert REGISTRY["speech"].cached is None
