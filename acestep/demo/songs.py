"""The songs of the demo: short synthesized songs with exact labels. Does not import torch."""

from __future__ import annotations

import io
from pathlib import Path

import soundfile

from acestep.audio.synth import SAMPLE_RATE_HZ, Tune, play
from acestep.core.files import write_bytes
from acestep.dataset.sidecars import write_sidecar

TAG = "chipdemo"
SECONDS = 5.0
TUNES = [
    Tune(bpm=bpm, key=key, seconds=SECONDS, seed=seed)
    for seed, (bpm, key) in enumerate(
        [(90, "C Major"), (100, "A Minor"), (110, "G Major"), (120, "E Minor"), (130, "F Major"), (140, "D Minor")]
    )
]


def write_songs(folder: Path) -> None:
    """Write each song and its labels; existing audio files are kept. Raises StorageError."""
    for tune in TUNES:
        path = folder / f"demo song {tune.seed + 1}.wav"
        if not path.exists():
            sound = io.BytesIO()
            soundfile.write(sound, play(tune).T, SAMPLE_RATE_HZ, "PCM_24", format="WAV")
            write_bytes(path, sound.getvalue())
        labels = {"caption": tune.caption, "bpm": tune.bpm, "keyscale": tune.key, "timesignature": "4"}
        write_sidecar(path, {**labels, "genre": "chiptune", "lyrics": "[Instrumental]", "is_instrumental": True})
