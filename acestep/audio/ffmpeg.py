"""Decodes files that soundfile cannot read with the ffmpeg program, if it is installed. Never uses a shell."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acestep.core.errors import AudioError

# No network access, whatever a file contains. The prefix "file:" keeps a name such as "-x" from being an option and
# "a:b" from being a URL.
_INPUT = ("-v", "error", "-protocol_whitelist", "file,pipe", "-i")

# ffprobe guesses the length of raw AAC from its first seconds.
_GUESSED = (".aac",)
_TOLERANCE_S = 1.0


def has_ffmpeg() -> bool:
    """Whether both programs, ffmpeg and ffprobe, can be found."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


class FfmpegStream:
    """The first audio track of a file; the process starts with the first read."""

    subtype = "PCM_24"
    vorbis_order = False

    def __init__(self, path: Path) -> None:
        facts = _probe(path)
        try:
            track, self.duration_s = facts["streams"][0], float(facts["format"]["duration"])
            self.sample_rate_hz, self.num_channels = int(track["sample_rate"]), int(track["channels"])
        except (KeyError, IndexError, ValueError):
            raise AudioError(
                f"{path} has no audio track that ffmpeg can read", hint="Copy it again, or convert it to WAV."
            ) from None
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._num_read = 0

    def read(self, frames: int) -> NDArray[np.float32]:
        """[n, channels], n < frames only at the end. Raises AudioError where the file is damaged or truncated."""
        if self._process is None:
            command = ["ffmpeg", "-nostdin", *_INPUT, f"file:{self._path}", "-map", "0:a:0", "-f", "f32le", "pipe:1"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._messages)
        assert self._process.stdout is not None
        data = self._process.stdout.read(frames * self.num_channels * 4)
        num_whole = len(data) // (4 * self.num_channels)
        self._num_read += num_whole
        if num_whole < frames:
            self._check_end()
        return np.frombuffer(data, "<f4", num_whole * self.num_channels).reshape(num_whole, self.num_channels)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._messages.close()

    def _check_end(self) -> None:
        assert self._process is not None
        seconds = self._num_read / self.sample_rate_hz
        short = self._path.suffix.lower() not in _GUESSED and seconds < self.duration_s - _TOLERANCE_S
        if self._process.wait() or short:
            self._messages.seek(0)
            why = "".join(self._messages.read().decode(errors="replace").strip().splitlines()[:1])
            message = (
                f"{self._path} is damaged or truncated after {seconds:.1f} of {self.duration_s:.1f} s {why}".strip()
            )
            raise AudioError(message, hint="Copy or download it again.")


def _probe(path: Path) -> dict[str, Any]:
    wanted = ("-show_entries", "stream=sample_rate,channels:format=duration", "-select_streams", "a:0", "-of", "json")
    command = ["ffprobe", *_INPUT, f"file:{path}", *wanted]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        facts: dict[str, Any] = json.loads(answer.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return {}
    return facts
