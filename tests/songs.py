"""Songs made of numbers: chords of harmonics, a pulse of noise, another piece for each seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

SAMPLE_RATE_HZ = 48_000
_DEGREES = (0, 5, 7, 9, 0, 3, 7, 5)  # semitones above the root


def sine_song(seconds: float, seed: int = 0) -> Tensor:
    """[2, S] float32 at 48 kHz, about -18 dBFS on average, never above 1."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    beat_s = random.uniform(0.35, 0.6)
    degrees = np.array(_DEGREES)[random.permutation(len(_DEGREES))][(time / beat_s).astype(int) // 2 % len(_DEGREES)]
    frequency_hz = 110.0 * 2 ** ((random.integers(12) + degrees) / 12)
    phase = 2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ
    decay = np.exp(-((time % beat_s) / beat_s) * random.uniform(1, 4))
    sound = random.standard_normal((2, len(time))) * np.exp(-((time % (beat_s / 2)) / beat_s) * 30)
    sound *= random.uniform(0.1, 0.6)
    for harmonic in range(1, int(random.integers(3, 8))):
        sound += decay / harmonic ** random.uniform(0.6, 1.5) * np.sin(harmonic * phase + random.uniform(0, 6, (2, 1)))
    sound *= 0.12 / np.sqrt((sound**2).mean())
    return torch.from_numpy(sound.clip(-1, 1).astype(np.float32))


def write_song(path: Path, seconds: float = 2.0, seed: int = 0) -> Path:
    """Write ``sine_song`` to ``path`` in the format of its suffix (.wav, .flac, .mp3, .ogg). Gives the path back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sine_song(seconds, seed).T.numpy(), SAMPLE_RATE_HZ)
    return path
