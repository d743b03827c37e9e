"""Splits long recordings into segments, each with the labels of its recording."""

from __future__ import annotations

import os.path
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acestep.audio.cuts import CutAt
from acestep.audio.split import Segment, SplitResult, split_folder
from acestep.core.errors import DatasetError
from acestep.dataset.labels import LINE_TIMES, is_sung
from acestep.dataset.sample import Sample
from acestep.dataset.scan import scan_folder
from acestep.dataset.sidecars import sidecar_path, write_sidecar

_CARRIED = ("caption", "genre", "bpm", "keyscale", "timesignature", "language")  # labels that hold for every segment


def split_songs(
    source: Path,
    out: Path,
    seconds: float = 30,
    *,
    at: CutAt = "exact",
    on_progress: Callable[[int, int, str], object] = lambda done, total, name: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SplitResult:
    """Split the audio files of a folder as ``split_folder`` does, and write a JSON sidecar beside each segment.

    Lyrics are divided where the start of each line is known, otherwise left out; this is reported in ``left_out``. A
    sidecar that exists is kept.

    Raises:
        AudioError: the folder has no audio files, or no segment could be written.
        DiskFull, NotWritable, StorageError.
    """
    result = split_folder(source, out, seconds, at=at, on_progress=on_progress, should_stop=should_stop)
    samples = _samples(source)
    for segment in result.parts:
        sample = samples.get(os.path.realpath(segment.source))
        if sample is not None and not os.path.exists(sidecar_path(segment.path)):
            labels = _labels(sample, segment)
            if labels:
                write_sidecar(segment.path, labels)
    for path in dict.fromkeys(segment.source for segment in result.parts):
        sample = samples.get(os.path.realpath(path))
        if sample is not None and is_sung(sample.lyrics) and not sample.line_times_s:
            message = "the segments have no lyrics, because the lyrics state no times; use an .lrc or .srt file"
            result.left_out.append(f"{path.name}: {message}")
    return result


def _samples(folder: Path) -> dict[str, Sample]:
    """The samples of a folder by the path of the audio file, with the activation tag of its label files."""
    try:
        found = scan_folder(folder)
    except DatasetError:
        return {}
    tag = {"custom_tag": found.custom_tag}
    return {sample.audio_path: sample.model_copy(update=tag) for sample in found.dataset.samples}


def _labels(sample: Sample, segment: Segment) -> dict[str, Any]:
    """The labels of a segment and their sources, without those that the song does not have."""
    labels = {name: getattr(sample, name) for name in _CARRIED if name in sample.sources}
    if sample.custom_tag:
        labels["custom_tag"] = sample.custom_tag
    if is_sung(sample.lyrics):
        lines, times_s = _lines_in(sample, segment)
        labels |= {"lyrics": "\n".join(lines), LINE_TIMES: times_s} if lines else {}
        labels["is_instrumental"] = bool(sample.line_times_s) and not lines
    elif "lyrics" in sample.sources or "is_instrumental" in sample.sources:
        labels |= {"lyrics": sample.lyrics, "is_instrumental": sample.is_instrumental}
    sources = {name: sample.sources[name] for name in labels if name in sample.sources}
    return {**labels, "sources": sources} if labels else {}


def _lines_in(sample: Sample, segment: Segment) -> tuple[list[str], list[float]]:
    """The lines that begin in a segment, and their start relative to it."""
    timed = zip(sample.lyrics.split("\n"), sample.line_times_s, strict=False)
    inside = [(line, time_s) for line, time_s in timed if segment.start_s <= time_s < segment.end_s]
    return [line for line, _ in inside], [round(time_s - segment.start_s, 3) for _, time_s in inside]
