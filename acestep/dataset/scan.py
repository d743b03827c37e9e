"""Scanning a folder of audio files and label files into a dataset."""

from __future__ import annotations

import mimetypes
import os.path
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from acestep.audio.files import AUDIO_EXTENSIONS, probe_audio
from acestep.core.errors import AudioError, DatasetError
from acestep.core.paths import typed_path
from acestep.dataset.identity import filename_key, sample_id
from acestep.dataset.labels import Labels, Problem, is_sung
from acestep.dataset.merge import merge_labels
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample, TagPosition
from acestep.dataset.sidecars import TEXT_FILES, FolderListing, read_sidecars
from acestep.dataset.table import read_table
from acestep.dataset.table_rows import TABLE_EXTENSIONS
from acestep.dataset.walk import walk

__all__ = ["Problem", "ScanResult", "scan_folder"]

_MAX_REASONS = 5

# Tables and lyrics in formats that are not read, with what to do.
_AS_CSV, _AS_TEXT = "Save the table as CSV.", "Save the lyrics as a text file (.lyrics.txt)."
_UNREAD_TEXTS = {
    **dict.fromkeys((".xls", ".ods", ".numbers", ".parquet", ".arrow", ".sqlite", ".db"), _AS_CSV),
    **dict.fromkeys((".doc", ".docx", ".odt", ".rtf", ".pdf", ".pages", ".ass", ".ssa", ".ttml", ".sub"), _AS_TEXT),
}


@dataclass(frozen=True, slots=True)
class ScanResult:
    """Result of ``scan_folder``.

    Attributes:
        dataset: the samples, sorted by path.
        problems: files that were skipped or only partly used.
        custom_tag: the activation tag that most label files state, "" if none does.
        counts: numbers of samples: "songs" (all), "labelled", "with_lyrics", "in_tables", "with_json".
    """

    dataset: Dataset
    problems: list[Problem]
    counts: dict[str, int]
    custom_tag: str = ""


def scan_folder(
    folder: Path,
    *,
    name: str = "my_lora_dataset",
    custom_tag: str = "",
    tag_position: TagPosition = "prepend",
    all_instrumental: bool = True,
    genre_ratio: int = 0,
) -> ScanResult:
    """Scan ``folder`` recursively for audio files and their labels.

    Sidecars take precedence over tables, and JSON over text. Hidden files are skipped. Files that cannot be used are
    reported in ``problems``. Only the headers of audio files are read.

    Args:
        folder: the folder to scan.
        name: name of the dataset.
        custom_tag: the activation tag.
        tag_position: where the tag goes in the text.
        all_instrumental: whether samples are instrumental if no file determines it.
        genre_ratio: percentage of samples that use the genre as text.

    Raises:
        DatasetError: the folder does not exist or has no usable audio file.
    """
    root = Path(os.path.realpath(folder if os.path.exists(folder) else typed_path(str(folder))))
    if os.path.isfile(root):
        raise DatasetError(f"{root} is a file", hint=f"Its folder is {root.parent}")
    if not os.path.isdir(root):
        raise DatasetError(f"{folder} is not a folder that can be read", hint="Choose the folder with the audio files.")
    problems: list[Problem] = []
    files = walk(root, problems)
    durations_s = _probe(files, root, problems)
    labels = _collect_labels(files, list(durations_s), problems)
    samples: list[Sample] = []
    ids: set[str] = set()
    for path, duration_s in durations_s.items():
        samples.append(
            Sample(
                id=sample_id(path.relative_to(root).as_posix(), ids),
                audio_path=str(path),
                filename=path.name,
                duration=int(duration_s),
                custom_tag=custom_tag,
                **merge_labels(labels[path], all_instrumental=all_instrumental, problems=problems),
            )
        )
        ids.add(samples[-1].id)
    metadata = DatasetMetadata(
        name=name,
        custom_tag=custom_tag,
        tag_position=tag_position,
        num_samples=len(samples),
        all_instrumental=all_instrumental,
        genre_ratio=genre_ratio,
    )
    dataset = Dataset(metadata=metadata, samples=samples)
    tags = Counter(file.custom_tag for files in labels.values() for file in files if file.custom_tag)
    found_tag = tags.most_common(1)[0][0] if tags else ""
    return ScanResult(dataset, problems, _counts(samples, list(labels.values())), found_tag)


def _probe(files: list[Path], root: Path, problems: list[Problem]) -> dict[Path, float]:
    """Durations in seconds of the usable audio files. Raises DatasetError if there are none."""
    durations_s: dict[Path, float] = {}
    reasons: list[str] = []
    for path in files:
        if path.suffix.lower() in AUDIO_EXTENSIONS:
            try:
                durations_s[path] = probe_audio(path).duration_s
            except AudioError as error:
                problems.append(Problem(path, str(error).removeprefix(str(path)).lstrip(" :"), error.hint))
                reasons.append(str(error))
    if durations_s:
        return durations_s
    if not reasons:
        reasons = [f"{problem.path} {problem.message}" for problem in problems]
        details = "".join(f"; {reason}" for reason in reasons[:_MAX_REASONS])
        hint = f"Supported files: {' '.join(AUDIO_EXTENSIONS)}."
        raise DatasetError(f"{root} contains no audio files{details}", hint=hint)
    details = "; ".join(reasons[:_MAX_REASONS])
    raise DatasetError(f"none of the {len(reasons)} audio files in {root} can be used: {details}", hint="Replace them.")


def _collect_labels(files: list[Path], audio_files: list[Path], problems: list[Problem]) -> dict[Path, list[Labels]]:
    """Labels of each audio file in order of increasing precedence: tables (outer folders first), then sidecars."""
    labels: dict[Path, list[Labels]] = {audio: [] for audio in audio_files}
    tables = [path for path in files if path.suffix.lower() in TABLE_EXTENSIONS]
    for table in sorted(tables, key=lambda path: len(path.parts)):
        below = [audio for audio in audio_files if audio.is_relative_to(table.parent)]
        for audio, row in read_table(table, below, problems).items():
            labels[audio].append(row)
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
    listings = {folder: FolderListing(paths) for folder, paths in folders.items()}
    for audio in audio_files:
        labels[audio] += read_sidecars(audio, listings[audio.parent], problems)
    _report_unmatched_sidecars(files, audio_files, problems)
    _report_unsupported(files, problems)
    return labels


def _report_unmatched_sidecars(files: list[Path], audio_files: list[Path], problems: list[Problem]) -> None:
    """Report captions and lyrics without an audio file; usually one of the two was renamed."""
    stems = {(audio.parent, filename_key(audio.stem)) for audio in audio_files}
    for path in files:
        ending = next((ending for ending in TEXT_FILES if path.name.lower().endswith(ending)), "")
        if ending and (path.parent, filename_key(path.name[: -len(ending)])) not in stems:
            problems.append(Problem(path, "matches no audio file in its folder; ignored", "Rename it to match."))


def _report_unsupported(files: list[Path], problems: list[Problem]) -> None:
    """Report files that look like songs, tables or lyrics, but are of formats that are not read."""
    for path in files:
        suffix, (kind, _) = path.suffix.lower(), mimetypes.guess_type(path.name)
        if suffix in _UNREAD_TEXTS:
            problems.append(Problem(path, f"is not used: {suffix} files are not read", _UNREAD_TEXTS[suffix]))
        elif (kind or "").startswith(("audio/", "video/")) and suffix not in AUDIO_EXTENSIONS:
            hint = "Convert the audio to WAV, FLAC or MP3."
            problems.append(Problem(path, f"is not used: {suffix} files are not read", hint))


def _counts(samples: list[Sample], labels: list[list[Labels]]) -> dict[str, int]:
    return {
        "songs": len(samples),
        "labelled": sum(sample.labeled for sample in samples),
        "with_lyrics": sum(is_sung(sample.lyrics) for sample in samples),
        "in_tables": _num_with_labels(labels, *TABLE_EXTENSIONS),
        "with_json": _num_with_labels(labels, ".json"),
    }


def _num_with_labels(labels: list[list[Labels]], *suffixes: str) -> int:
    """The number of samples with labels from a file of these types."""
    return sum(any(file.values and file.path.suffix.lower() in suffixes for file in files) for files in labels)
