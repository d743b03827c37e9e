"""Opens audio files of any format for sequential reading. Importing this imports neither torch nor PyAV.

Files are read as a player reads them: damaged frames are skipped, joined files are read to the end of the last one,
and a file that ends early is read as far as it goes. What was wrong is stated in ``Stream.remarks``.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from acestep.audio.stream import MIN_DURATION_S, Stream, length_remark
from acestep.core.errors import AudioError

# libsndfile's log line for a WAV file that is shorter than its header states. Programs that write to a pipe do not
# know the length; they state about 2**31 or 2**32 bytes.
_HEADER_LENGTH = re.compile(r"data *: (\d+) \(should be (\d+)\)")
_UNKNOWN_BYTES = 2**31 - 2**16


@contextmanager
def open_audio(path: Path) -> Iterator[Stream]:
    """Open an audio file: WAV with soundfile, everything else with PyAV.

    Raises:
        AudioError: the file is unreadable, empty, not audio, or shorter than one second.
    """
    _check_readable(path)
    with closing(_open(path)) as stream:
        if stream.duration_s < MIN_DURATION_S:
            message = f"{path} is {stream.duration_s:.2f} s long, less than {MIN_DURATION_S:g} s"
            raise AudioError(message, hint="Remove it, or use a longer file.")
        yield stream


def _check_readable(path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for a writer
            raise AudioError(f"{path} cannot be read: it is not a file", hint="Choose an audio file.")
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
    wav = _open_wav(path) if path.suffix.lower() in (".wav", ".wave") else None
    if wav is not None:
        return _WavStream(wav)
    from acestep.audio.pyav_decode import PyAvStream

    return PyAvStream(path)


def _open_wav(path: Path) -> soundfile.SoundFile | None:
    """The file opened by soundfile; None if it is not a WAV file that soundfile reads to its end."""
    try:
        file = soundfile.SoundFile(str(path))
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a headerless format
        return None
    # libsndfile sees no frames where the header states a size of zero; other formats are renamed files.
    if file.frames and file.format in ("WAV", "WAVEX", "RF64"):
        return file
    file.close()
    return None


class _WavStream:
    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self.sample_rate_hz, self.num_channels, self.subtype = file.samplerate, file.channels, file.subtype
        self.duration_s = file.frames / file.samplerate
        self.speakers: Sequence[str] | None = None
        self.remarks: list[str] = []
        header = _HEADER_LENGTH.search(file.extra_info)
        if header and int(header[1]) < _UNKNOWN_BYTES:
            stated_s = self.duration_s * int(header[1]) / max(int(header[2]), 1)
            self.remarks += filter(None, [length_remark(stated_s, self.duration_s)])

    def read(self, frames: int) -> NDArray[np.float32]:
        block: NDArray[np.float32] = self._file.read(frames, dtype="float32", always_2d=True)
        return block

    def close(self) -> None:
        self._file.close()
