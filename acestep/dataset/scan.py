"""A folder of songs, with whatever labels lie in it, as a dataset."""

from __future__ import annotations

import os.path
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from acestep.audio.files import AUDIO_EXTENSIONS, probe_audio
from acestep.core.errors import AudioError, DatasetError
from acestep.dataset.identity import same_name, sample_id
from acestep.dataset.labels import Labels, Problem, is_sung
from acestep.dataset.merge import merge_labels
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample, TagPosition
from acestep.dataset.sidecars import TEXT_ENDINGS, Folder, read_sidecars
from acestep.dataset.table import match_rows, read_table
from acestep.dataset.walk import walk

__all__ = ["Problem", "ScanResult", "scan_folder"]

_MAX_REASONS = 5


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What is in a folder. ``counts`` are of songs: "songs", "labelled", "with_lyrics", "in_tables", "with_json"."""

    dataset: Dataset
    problems: list[Problem]
    counts: dict[str, int]


def scan_folder(
    folder: Path,
    *,
    name: str = "my_lora_dataset",
    custom_tag: str = "",
    tag_position: TagPosition = "prepend",
    all_instrumental: bool = True,
    genre_ratio: int = 0,
) -> ScanResult:
    """Find the songs below ``folder``, sorted by path, and their labels.

    A sidecar counts more than a table, JSON more than text. Hidden files are passed over; what cannot be read or
    used is a problem, and the rest goes on. Only the headers of sound files are read.

    Args:
        all_instrumental: whether songs of which nothing tells are instrumental.

    Raises:
        DatasetError: no such folder, or no song in it that can be used.
    """
    root = Path(os.path.realpath(folder.expanduser()))
    if not os.path.isdir(root):
        raise DatasetError(f"{folder} is not a folder that can be read", hint="Choose the folder that holds the songs.")
    problems: list[Problem] = []
    files = walk(root, problems)
    lengths_s = _probe(files, root, problems)
    layers = _layers(files, list(lengths_s), problems)
    samples: list[Sample] = []
    taken: set[str] = set()
    for path, length_s in lengths_s.items():
        place = path.relative_to(root).as_posix()
        samples.append(
            Sample(
                id=sample_id(place, taken),
                audio_path=str(path),
                filename=path.name,
                duration=int(length_s),
                custom_tag=custom_tag,
                **merge_labels(layers[path], all_instrumental=all_instrumental, problems=problems),
            )
        )
        taken.add(samples[-1].id)
    metadata = DatasetMetadata(
        name=name,
        custom_tag=custom_tag,
        tag_position=tag_position,
        num_samples=len(samples),
        all_instrumental=all_instrumental,
        genre_ratio=genre_ratio,
    )
    return ScanResult(Dataset(metadata=metadata, samples=samples), problems, _counts(samples, list(layers.values())))


def _probe(files: list[Path], root: Path, problems: list[Problem]) -> dict[Path, float]:
    """The usable songs with their lengths in seconds. Raises DatasetError when there are none."""
    lengths_s: dict[Path, float] = {}
    reasons: list[str] = []
    for path in files:
        if path.suffix.lower() in AUDIO_EXTENSIONS:
            try:
                lengths_s[path] = probe_audio(path).duration_s
            except AudioError as error:
                problems.append(Problem(path, str(error).removeprefix(str(path)).lstrip(" :"), error.hint))
                reasons.append(str(error))
    if lengths_s:
        return lengths_s
    if not reasons:
        reasons = [f"{problem.path} {problem.message}" for problem in problems]
        told = "".join(f"; {reason}" for reason in reasons[:_MAX_REASONS])
        raise DatasetError(f"{root} holds no songs{told}", hint=f"Songs are {' '.join(AUDIO_EXTENSIONS)} files.")
    told = "; ".join(reasons[:_MAX_REASONS])
    raise DatasetError(f"none of the {len(reasons)} sound files in {root} can be used: {told}", hint="Replace them.")


def _layers(files: list[Path], songs: list[Path], problems: list[Problem]) -> dict[Path, list[Labels]]:
    """What is said of each song, weakest first: tables, deeper folders later, then its sidecars."""
    layers: dict[Path, list[Labels]] = {song: [] for song in songs}
    tables = [path for path in files if path.suffix.lower() == ".csv"]
    for table in sorted(tables, key=lambda path: len(path.parts)):
        below = [song for song in songs if song.is_relative_to(table.parent)]
        for song, labels in match_rows(table, read_table(table, problems), below, problems).items():
            layers[song].append(labels)
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        folders[path.parent].append(path)
    listings = {place: Folder(paths) for place, paths in folders.items()}
    for song in songs:
        layers[song] += read_sidecars(song, listings[song.parent], problems)
    _tell_orphans(files, songs, problems)
    return layers


def _tell_orphans(files: list[Path], songs: list[Path], problems: list[Problem]) -> None:
    """A caption or lyrics whose song is not there: most often one of the two was renamed."""
    stems = {(song.parent, same_name(song.stem)) for song in songs}
    for path in files:
        ending = next((ending for ending in TEXT_ENDINGS if path.name.lower().endswith(ending)), "")
        if ending and (path.parent, same_name(path.name[: -len(ending)])) not in stems:
            problems.append(Problem(path, "belongs to no song of its folder and was ignored", "Name it like its song."))


def _counts(samples: list[Sample], layers: list[list[Labels]]) -> dict[str, int]:
    return {
        "songs": len(samples),
        "labelled": sum(sample.labeled for sample in samples),
        "with_lyrics": sum(is_sung(sample.lyrics) for sample in samples),
        "in_tables": _num_from(layers, ".csv"),
        "with_json": _num_from(layers, ".json"),
    }


def _num_from(layers: list[list[Labels]], suffix: str) -> int:
    return sum(any(labels.values and labels.path.suffix.lower() == suffix for labels in found) for found in layers)
