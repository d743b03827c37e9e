"""Songs of noise with captions, so that preprocessing can be measured without any files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

_RATE_HZ = 44_100  # of most music: it is resampled to 48 kHz


def write_seeded_songs(folder: Path, *, songs: int, seconds: float) -> None:
    """Write ``songs`` stereo FLAC files of noise and their captions into the new ``folder``."""
    folder.mkdir(parents=True)
    for number in range(songs):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, (round(seconds * _RATE_HZ), 2))
        soundfile.write(folder / f"song {number:03}.flac", noise, _RATE_HZ)
        (folder / f"song {number:03}.caption.txt").write_text("a calm piece for piano", encoding="utf-8")
