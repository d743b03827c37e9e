"""Opens audio files of any format and detects damaged ones. Importing this does not import torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from acestep.audio.ffmpeg import FfmpegStream, has_ffmpeg
from acestep.audio.mp3 import with_length
from acestep.core.errors import AudioError

SOUNDFILE_EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif")
FFMPEG_EXTENSIONS = (".m4a", ".aac", ".wma")
MIN_DURATION_S = 1.0

_TOLERANCE_S = 0.1  # encoders pad by a few frames
_UNKNOWN_LENGTH = 2**48  # frames; libsndfile reports 2**63 - 1 for a FLAC that was written to a pipe
_STREAMED_SIZE = 2**31 - 2**16  # bytes; programs that write to a pipe state about this size, or 2**32, or none

# libsndfile's log line for a WAV or AIFF file that is shorter than its header states.
_HEADER_LENGTH = re.compile(r"(?:data|SSND) *: (\d+) \(should be (\d+)\)")


class Stream(Protocol):
    """An open audio file, read sequentially."""

    duration_s: float
    sample_rate_hz: int
    num_channels: int
    subtype: str  # sample format, as soundfile names it
    vorbis_order: bool  # whether more than two channels are in Vorbis order, not in that of WAV

    def read(self, frames: int) -> NDArray[np.float32]:
        """The next [n, channels]; n < frames only at the end. Raises AudioError if the file is damaged."""

    def close(self) -> None: ...


@contextmanager
def open_audio(path: Path) -> Iterator[Stream]:
    """Open an audio file with soundfile, or with ffmpeg if soundfile cannot read it.

    Raises:
        AudioError: the file is unreadable, empty, not audio, truncated, or shorter than one second.
    """
    _check_readable(path)
    with closing(_open(path)) as stream:
        _check_length(path, stream.duration_s)
        yield stream


def _check_length(path: Path, seconds: float) -> None:
    if seconds < MIN_DURATION_S:
        raise AudioError(
            f"{path} is {seconds:.2f} s long, less than {MIN_DURATION_S:g} s", hint="Remove it, or use a longer file."
        )


class _SoundFileStream:
    def __init__(self, path: Path, file: Any) -> None:
        self.sample_rate_hz, self.num_channels, self.subtype = file.samplerate, file.channels, file.subtype
        self.vorbis_order = file.format == "OGG"
        self.duration_s = file.frames / file.samplerate
        self._path, self._file, self._num_read = path, file, 0
        header = _HEADER_LENGTH.search(file.extra_info)
        if header and int(header[1]) < _STREAMED_SIZE:
            stated_s = self.duration_s * int(header[1]) / max(int(header[2]), 1)
            if self.duration_s < stated_s - _TOLERANCE_S:
                raise self._truncated(stated_s)

    def read(self, frames: int) -> NDArray[np.float32]:
        try:
            block: NDArray[np.float32] = self._file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            raise self._truncated(self.duration_s) from None
        self._num_read += len(block)
        if len(block) < frames and self._num_read / self.sample_rate_hz < self.duration_s - _TOLERANCE_S:
            raise self._truncated(self.duration_s)
        return block

    def close(self) -> None:
        self._file.close()

    def _truncated(self, stated_s: float) -> AudioError:
        return AudioError(
            f"{self._path} is damaged or truncated: its header states {stated_s:.1f} s",
            hint="Copy or download it again.",
        )


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise AudioError(f"{path} does not exist", hint="Scan the folder again.") from None
    except OSError as problem:
        hint = "Check that this user may read the file."
        raise AudioError(f"{path} cannot be read: {problem.strerror}", hint=hint) from None
    if empty:
        raise AudioError(f"{path} is empty", hint="Copy or download it again.")


def _open(path: Path) -> Stream:
    file = None if path.suffix.lower() in FFMPEG_EXTENSIONS else _soundfile(path)
    if file is not None:
        try:
            return _SoundFileStream(path, file)
        except AudioError:
            file.close()
            raise
    if has_ffmpeg():
        return FfmpegStream(path)
    if path.suffix.lower() in FFMPEG_EXTENSIONS:
        message, hint = f"{path}: {path.suffix} files need ffmpeg, which is not installed", "Install ffmpeg, or convert"
    else:
        message, hint = f"{path} is not an audio file, or its format is not supported", "Remove it, or convert"
    raise AudioError(message, hint=f"{hint} the file to WAV, FLAC or MP3.")


def _soundfile(path: Path) -> Any:
    """The file opened by soundfile; None if soundfile cannot read it."""
    try:
        file = soundfile.SoundFile(with_length(path) or str(path))
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a headerless format
        return None
    if file.frames >= _UNKNOWN_LENGTH:
        file.close()
        raise AudioError(f"{path} does not state its length", hint="Open it in an audio editor and save it again.")
    return file
