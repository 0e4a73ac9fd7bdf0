"""A synthetic signal with the structure of speech, where recordings are missing."""

import numpy as np

RATE = 8000
UTTERANCES = 150
_FORMANTS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480]])


def synthetic_voice():
    """Utterances of 1 to 6 seconds of syllables; return them, the rate and their source.

    A syllable is half a vowel (harmonics of a gliding pitch under three resonances, at the
    frequencies of Peterson & Barney 1952 for i, u, a and ɛ) and half hiss, with pauses between.
    Each utterance has a loudness, a pitch and a length of the vocal tract of its own.
    """
    random = np.random.default_rng(0)
    utterances = tuple(_utterance(random) for _ in range(UTTERANCES))
    return (utterances, RATE), f"a synthesis in NumPy, {UTTERANCES} utterances"


def _utterance(random):
    pitch, tract = random.uniform(90, 220), random.uniform(0.85, 1.15)
    parts = [_syllable(random, pitch, tract) for _ in range(random.integers(4, 25))]
    signal = np.concatenate([np.zeros(2000), *parts])
    loudness = 10 ** random.uniform(-1.6, -0.6)
    signal *= loudness / np.abs(signal).max()
    return (signal + random.normal(0, 1e-4, len(signal))).astype(np.float32)  # a quiet room


def _syllable(random, pitch, tract):
    time = np.arange(random.integers(700, 1500)) / RATE
    glide = pitch * (1 + 0.15 * random.uniform(-1, 1) * time / time[-1])
    formants = _FORMANTS[random.integers(len(_FORMANTS))] * tract
    vowel = np.zeros_like(time)
    for number in range(1, int(3800 / pitch)):
        distance = (number * pitch - formants) / (60 + 0.05 * formants)
        strength = np.sum(1 / (1 + np.square(distance))) / number
        vowel += strength * np.sin(2 * np.pi * number * np.cumsum(glide) / RATE)
    hiss = np.diff(random.standard_normal(random.integers(300, 800)), prepend=0) * 0.2
    pause = np.zeros(random.integers(1, 6) * random.integers(0, 2) * 500)
    return np.concatenate([vowel * np.hanning(len(vowel)), hiss * np.hanning(len(hiss)), pause])
