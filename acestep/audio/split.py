"""Long recordings cut into pieces of equal length, one after the other. Does not import torch."""

from __future__ import annotations

import io
import os.path
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from acestep.audio.decode import open_audio
from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.core.errors import AudioError
from acestep.core.files import storage_errors, write_bytes

MIN_PIECE_S = 10.0

# Written as they are. The rest is 8 bits, 32 bits (of which float32 holds 24) or a lossy format.
_KEPT_SUBTYPES = ("PCM_16", "PCM_24", "FLOAT")


@dataclass(slots=True)
class SplitResult:
    """What became of a folder. ``left_out`` has a line with the reason for each file and each rest not written."""

    written: list[Path] = field(default_factory=list)
    up_to_date: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def pieces(self) -> list[Path]:
        return sorted(self.written + self.up_to_date)


def split_folder(
    source: Path,
    out: Path,
    seconds: float = 30,
    *,
    on_progress: Callable[[int, int, str], object] = lambda done, total, name: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SplitResult:
    """Cut each sound file of ``source`` (not of its sub-folders) into ``out``/``<stem>_seg01.wav`` and so on.

    Pieces follow each other without a gap, at the file's own rate, channels and precision. A rest shorter than
    10 s is left out, and so is a file that cannot be read: both are told. A piece that is there already is kept; a
    file of that name with another content is never overwritten.

    Args:
        on_progress: called after each file with the number of files done, their total, and the name of the file.
        should_stop: asked before each piece; what is written by then stays.

    Raises:
        AudioError: nothing to split, or nothing came of it.
        DiskFull, NotWritable, StorageError.
    """
    if seconds < MIN_PIECE_S:
        raise AudioError(f"pieces of {seconds:g} s are too short", hint=f"Choose {MIN_PIECE_S:g} s or more.")
    sources = _sources(source)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if out.samefile(source):
            raise AudioError(f"{out} is the folder of the songs", hint="Choose another folder for the pieces.")
    result = SplitResult()
    for number, (path, stem) in enumerate(sources, 1):
        try:
            _split(path, out, stem, seconds, should_stop, result)
        except AudioError as error:
            result.left_out.append(f"{error} {error.hint}".strip())
        on_progress(number, len(sources), path.name)
        if result.stopped:
            return result
    if not result.pieces:
        raise AudioError(f"no piece could be cut from {source}: {'; '.join(result.left_out)}")
    return result


def _sources(folder: Path) -> list[tuple[Path, str]]:
    """The sound files with the name their pieces begin with: the stem, or the whole name where a stem comes twice."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as problem:
        hint = "Choose the folder that holds the recordings."
        raise AudioError(f"{folder} cannot be read: {problem.strerror}", hint=hint) from None
    paths = [path for path in entries if path.suffix.lower() in AUDIO_EXTENSIONS and os.path.isfile(path)]
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise AudioError(f"{folder} holds no sound files", hint=f"Read are {' '.join(AUDIO_EXTENSIONS)}.")
    times = Counter(path.stem.casefold() for path in paths)
    return [(path, path.stem if times[path.stem.casefold()] == 1 else path.name) for path in paths]


def _split(
    path: Path, out: Path, stem: str, seconds: float, should_stop: Callable[[], bool], result: SplitResult
) -> None:
    with open_audio(path) as stream:
        rate_hz = stream.sample_rate_hz
        subtype = stream.subtype if stream.subtype in _KEPT_SUBTYPES else "PCM_24"
        number, length = 0, round(seconds * rate_hz)
        while not should_stop():
            piece = stream.read(length)
            if len(piece) < MIN_PIECE_S * rate_hz:
                if len(piece):
                    rest = f"the last {len(piece) / rate_hz:.1f} s are shorter than {MIN_PIECE_S:g} s"
                    result.left_out.append(f"{path.name}: {rest}")
                return
            number += 1
            _write(out / f"{stem}_seg{number:02d}.wav", piece, rate_hz, subtype, result)
            if len(piece) < length:
                return
        result.stopped = True


def _write(path: Path, piece: NDArray[np.float32], rate_hz: int, subtype: str, result: SplitResult) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, piece, rate_hz, subtype, format="WAV")
    if not path.exists():
        write_bytes(path, buffer.getvalue())
        result.written.append(path)
    elif _same_sound(path, buffer):
        result.up_to_date.append(path)
    else:
        result.left_out.append(f"{path.name}: is there already with another content, and was not overwritten")


def _same_sound(path: Path, buffer: io.BytesIO) -> bool:
    """Compares samples, not bytes: libsndfile writes the time of day into float files."""
    buffer.seek(0)
    wanted, rate_hz = soundfile.read(buffer)
    try:
        found, found_rate_hz = soundfile.read(str(path))
    except soundfile.LibsndfileError:
        return False
    return found_rate_hz == rate_hz and np.array_equal(found, wanted)
