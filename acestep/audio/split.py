"""Splits long recordings into consecutive segments. Importing this does not import torch."""

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

from acestep.audio.cuts import MIN_SEGMENT_S, CutAt, Cutter
from acestep.audio.decode import open_audio
from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.core.errors import AudioError
from acestep.core.files import storage_errors, write_bytes
from acestep.core.untrusted import exists

# Kept; 8-bit, 32-bit integer and lossy sources are written with 24 bits, which float32 can hold.
_KEPT_SUBTYPES = ("PCM_16", "PCM_24", "FLOAT")


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording and its file."""

    source: Path
    path: Path
    start_s: float
    end_s: float


@dataclass(slots=True)
class SplitResult:
    """Result of splitting a folder. ``left_out`` has a line for each skipped file, remainder and defect."""

    written: list[Path] = field(default_factory=list)
    up_to_date: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    parts: list[Segment] = field(default_factory=list)  # written ones and those that existed
    stopped: bool = False

    @property
    def segments(self) -> list[Path]:
        return sorted(self.written + self.up_to_date)


def split_folder(
    source: Path,
    out: Path,
    seconds: float = 30,
    *,
    at: CutAt = "exact",
    on_progress: Callable[[int, int, str], object] = lambda done, total, name: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SplitResult:
    """Split each audio file of ``source`` (not its subfolders) into ``out``/``<stem>_seg01.wav`` and so on.

    Segments are contiguous and keep the sample rate, channels and bit depth. Remainders under 10 s and unreadable files
    are skipped and reported. A segment that already exists is kept; a different file of that name is never overwritten.

    Args:
        seconds: the length of a segment; its greatest length unless ``at`` is "exact".
        at: where to cut, see ``Cutter``.
        on_progress: called after each file with the number of files done, their total, and the name of the file.
        should_stop: called before each segment; segments already written are kept.

    Raises:
        AudioError: the folder has no audio files, or no segment could be written.
        DiskFull, NotWritable, StorageError.
    """
    if seconds < MIN_SEGMENT_S:
        raise AudioError(f"segments of {seconds:g} s are too short", hint=f"Choose {MIN_SEGMENT_S:g} s or more.")
    sources = _sources(source)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if out.samefile(source):
            raise AudioError(f"{out} is the input folder", hint="Choose another folder for the segments.")
    result = SplitResult()
    for number, (path, stem) in enumerate(sources, 1):
        try:
            _split(path, out, stem, seconds, at, should_stop, result)
        except AudioError as error:
            result.left_out.append(f"{error} {error.hint}".strip())
        on_progress(number, len(sources), path.name)
        if result.stopped:
            return result
    if not result.segments:
        raise AudioError(f"no segment could be written from {source}: {'; '.join(result.left_out)}")
    return result


def _sources(folder: Path) -> list[tuple[Path, str]]:
    """The audio files, each with the prefix of its segments: the stem, or the file name if two files share a stem."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as problem:
        hint = "Choose the folder that holds the recordings."
        raise AudioError(f"{folder} cannot be read: {problem.strerror}", hint=hint) from None
    paths = [path for path in entries if path.suffix.lower() in AUDIO_EXTENSIONS and os.path.isfile(path)]
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise AudioError(f"{folder} has no audio files", hint=f"Supported: {' '.join(AUDIO_EXTENSIONS)}.")
    times = Counter(path.stem.casefold() for path in paths)
    return [(path, path.stem if times[path.stem.casefold()] == 1 else path.name) for path in paths]


def _split(
    path: Path, out: Path, stem: str, seconds: float, at: CutAt, should_stop: Callable[[], bool], result: SplitResult
) -> None:
    with open_audio(path) as stream:
        rate_hz = stream.sample_rate_hz
        subtype = stream.subtype if stream.subtype in _KEPT_SUBTYPES else "PCM_24"
        number, start, length = 0, 0, round(seconds * rate_hz)
        cutter = Cutter(at, rate_hz)
        block = stream.read(length)
        while len(block) >= MIN_SEGMENT_S * rate_hz:
            if should_stop():
                result.stopped = True
                return
            number += 1
            end = cutter(block) if len(block) == length else len(block)
            target = out / f"{stem}_seg{number:02d}.wav"
            if _write(target, block[:end], rate_hz, subtype, result):
                result.parts.append(Segment(path, target, start / rate_hz, (start + end) / rate_hz))
            start += end
            block = np.concatenate([block[end:], stream.read(end)]) if len(block) == length else block[end:]
        if len(block):
            reason = f"the last {len(block) / rate_hz:.1f} s are shorter than {MIN_SEGMENT_S:g} s"
            result.left_out.append(f"{path.name}: {reason}")
        result.left_out += [f"{path.name} {remark}" for remark in [*stream.remarks, cutter.remark] if remark]


def _write(path: Path, segment: NDArray[np.float32], rate_hz: int, subtype: str, result: SplitResult) -> bool:
    """Write a segment unless its file exists. False if a different file of that name exists."""
    buffer = io.BytesIO()
    soundfile.write(buffer, segment, rate_hz, subtype, format="WAV")
    if not exists(path):
        write_bytes(path, buffer.getvalue())
        result.written.append(path)
    elif _same_samples(path, buffer):
        result.up_to_date.append(path)
    else:
        result.left_out.append(f"{path.name}: a different file of this name exists and was not overwritten")
        return False
    return True


def _same_samples(path: Path, buffer: io.BytesIO) -> bool:
    """Compares samples, not bytes: libsndfile writes a timestamp into float files."""
    buffer.seek(0)
    expected, rate_hz = soundfile.read(buffer)
    try:
        found, found_rate_hz = soundfile.read(str(path))
    except soundfile.LibsndfileError:
        return False
    return found_rate_hz == rate_hz and np.array_equal(found, expected)
