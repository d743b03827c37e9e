"""The dataset of the page: scan, load, edit, undo, save. Every change is also saved to a draft file."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.errors import DatasetError, StorageError
from acestep.dataset.labels import INSTRUMENTAL, UNKNOWN_LANGUAGE, Problem, is_sung
from acestep.dataset.sample import Dataset, Sample
from acestep.dataset.scan import ScanResult, scan_folder
from acestep.dataset.store import read_dataset, write_dataset

USER = "user"  # source of a label that was edited on a page; captioners do not overwrite such labels
_UNDO_STEPS = 20


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over the dataset."""

    songs: int
    seconds: int
    labeled: int
    with_lyrics: int


class EditableDataset:
    """One dataset, shared by all open pages. Thread-safe."""

    def __init__(self, draft: Path) -> None:
        self._draft, self._lock = draft, threading.RLock()
        self._history: list[list[Sample]] = []
        self.problems: list[Problem] = []
        self.version = 0
        self.dataset = self._read_draft()

    @property
    def samples(self) -> list[Sample]:
        return self.dataset.samples if self.dataset else []

    def statistics(self) -> Statistics:
        """Counts over the dataset."""
        songs = self.samples
        return Statistics(
            songs=len(songs),
            seconds=sum(song.duration for song in songs),
            labeled=sum(song.labeled for song in songs),
            with_lyrics=sum(is_sung(song.lyrics) for song in songs),
        )

    def scan(self, folder: Path, **options: Any) -> ScanResult:
        """Replace the dataset by the songs of a folder. Raises DatasetError."""
        found = scan_folder(folder, **options)
        self._replace(found.dataset, found.problems)
        return found

    def load(self, path: Path) -> Dataset:
        """Replace the dataset by a dataset file. Raises DatasetError."""
        dataset = read_dataset(path)
        self._replace(dataset, [])
        return dataset

    def replace(self, dataset: Dataset) -> None:
        """Replace the dataset."""
        self._replace(dataset, [])

    def save(self, path: Path) -> None:
        """Write the dataset file. Raises DatasetError without songs, DiskFull, NotWritable, StorageError."""
        with self._lock:
            if self.dataset is None:
                raise DatasetError("the dataset has no songs yet", hint="Scan a folder in 2. Dataset first.")
            write_dataset(path, self.dataset)

    def set_metadata(self, **metadata: Any) -> None:
        """Set metadata of the dataset: name, custom_tag, tag_position, genre_ratio."""
        with self._lock:
            if self.dataset is None or metadata.items() <= self.dataset.metadata.model_dump().items():
                return
            for key, value in metadata.items():
                setattr(self.dataset.metadata, key, value)
            for sample in self.dataset.samples:
                sample.custom_tag = self.dataset.metadata.custom_tag
            self._changed()

    def relabel(self, changes: Mapping[int, Mapping[str, Any]]) -> int:
        """Set labels by the index of the sample; returns how many samples changed.

        Raises:
            DatasetError: a value is invalid for its label; nothing changes then.
        """
        with self._lock:
            after = list(self.samples)
            for index, labels in changes.items():
                after[index] = _relabelled(after[index], labels)
            changed = sum(one != other for one, other in zip(after, self.samples, strict=True))
            if changed and self.dataset is not None:
                self._history = [*self._history[-_UNDO_STEPS:], self.samples]
                self.dataset.samples = after
                self._changed()
            return changed

    def undo(self) -> None:
        """Undo the last change. Raises DatasetError when there is none."""
        with self._lock:
            if not self._history or self.dataset is None:
                raise DatasetError("there is nothing to undo")
            self.dataset.samples = self._history.pop()
            self._changed()

    def _replace(self, dataset: Dataset, problems: list[Problem]) -> None:
        with self._lock:
            self.dataset, self.problems, self._history = dataset, problems, []
            self._changed()

    def _changed(self) -> None:
        self.version += 1
        if self.dataset is not None:
            write_dataset(self._draft, self.dataset)

    def _read_draft(self) -> Dataset | None:
        try:
            return read_dataset(self._draft) if self._draft.exists() else None
        except (DatasetError, StorageError):  # a damaged draft: the user scans or loads again
            return None


def _relabelled(sample: Sample, labels: Mapping[str, Any]) -> Sample:
    """A copy with those labels; the source of changed labels becomes the user."""
    fresh = sample.model_copy(deep=True)
    for name, value in labels.items():
        before = getattr(fresh, name)
        try:
            setattr(fresh, name, value)
        except ValueError as problem:
            reason = str(problem).splitlines()[-2].split("[type=")[0].strip().removeprefix("Value error, ")
            raise DatasetError(f"{sample.name}: {name} {reason}, not {value!r:.60}") from None
        if getattr(fresh, name) != before:
            fresh.sources[name] = USER
    if fresh.is_instrumental and not is_sung(fresh.lyrics):
        fresh.lyrics, fresh.language = INSTRUMENTAL, UNKNOWN_LANGUAGE
    fresh.labeled = fresh.has_caption
    return fresh
