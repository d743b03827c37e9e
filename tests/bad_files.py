"""Valid and invalid audio files for tests, as found in users' folders.

The functions that take a path write one file and return its path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

PROJECT = Path(__file__).resolve().parents[1]

# The last name has 200 characters; common file systems allow 255 bytes.
AWKWARD_NAMES = (
    "with several  spaces.wav",
    'it\'s a "quoted" name.wav',
    "music \U0001f3b5 and \u00fcml\u00e4ut.wav",
    "100% [live] #1 (a,b);c=d&e.wav",
    "-starts-with-a-dash.wav",
    "n" * 196 + ".wav",
)


def tone(seconds: float = 2.0, *, rate: int = 48_000, channels: int = 2, level: float = 0.3) -> np.ndarray:
    """[frames, channels] float32: a sine in each channel, 220 Hz, 330 Hz, 440 Hz ..."""
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([level * np.sin(2 * np.pi * 110 * (c + 2) * time) for c in range(channels)], 1).astype(np.float32)


def song(path: Path, seconds: float = 2.0, *, rate: int = 48_000, channels: int = 2, level: float = 0.3) -> Path:
    """A valid file in the format of its suffix (.opus is written as Opus in Ogg)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {".opus": ("OGG", "OPUS"), ".ogg": ("OGG", "OPUS"), ".mp3": ("MP3", None)}.get(path.suffix, (None, None))
    soundfile.write(path, tone(seconds, rate=rate, channels=channels, level=level), rate, form[1], format=form[0])
    return path


def mono_22050(path: Path) -> Path:
    return song(path, rate=22_050, channels=1)


def surround_51(path: Path) -> Path:
    """Six channels in the order of WAV and FLAC: left, right, center, LFE, left and right surround."""
    return song(path, channels=6, level=0.1)


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text_named_audio(path: Path) -> Path:
    path.write_text("This is a shopping list, not a song.\n" * 50)
    return path


def truncated(path: Path, *, kept: float = 0.5, seconds: float = 5.0) -> Path:
    """An interrupted download: the header still states ``seconds``."""
    data = song(path, seconds).read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    return path


def with_nan(path: Path) -> Path:
    """A float WAV file with one NaN sample."""
    samples = tone()
    samples[1000, 1] = np.nan
    soundfile.write(path, samples, 48_000, "FLOAT")
    return path


def silent(path: Path) -> Path:
    return song(path, level=0.0)


def too_short(path: Path) -> Path:
    return song(path, 0.2)


def pickle_bomb(path: Path, proof: Path) -> Path:
    """A ``.pt`` that creates the file ``proof`` if it is ever unpickled."""
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR.")
    return path


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that other users can access, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def run_unprivileged(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python ``code`` without root, which ignores permissions; ``sys.argv[1:]`` are ``arguments``."""
    become = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    command = [*become, sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HOME": tempfile.gettempdir()}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env=environment,
        timeout=300,
        check=False,
    )
