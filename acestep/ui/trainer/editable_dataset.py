"""The songs at hand: found, labelled, corrected. Kept in a draft at every change, so that nothing typed is lost."""

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

BY_HAND = "user"  # where a label came from that was typed into a page; captioners leave such labels alone
_UNDO_STEPS = 20


@dataclass(frozen=True, slots=True)
class Overview:
    """The songs in numbers."""

    songs: int
    seconds: int
    labelled: int
    sung: int


class EditableDataset:
    """One dataset, shared by all pages. Safe to use from several threads."""

    def __init__(self, draft: Path) -> None:
        self._draft, self._lock = draft, threading.RLock()
        self._before: list[list[Sample]] = []
        self.problems: list[Problem] = []
        self.version = 0
        self.dataset = self._read_draft()

    @property
    def samples(self) -> list[Sample]:
        return self.dataset.samples if self.dataset else []

    def overview(self) -> Overview:
        """The songs in numbers."""
        songs = self.samples
        return Overview(
            songs=len(songs),
            seconds=sum(song.duration for song in songs),
            labelled=sum(song.labeled for song in songs),
            sung=sum(is_sung(song.lyrics) for song in songs),
        )

    def scan(self, folder: Path, **options: Any) -> ScanResult:
        """Take the songs of a folder in place of those at hand. Raises DatasetError."""
        found = scan_folder(folder, **options)
        self._take(found.dataset, found.problems)
        return found

    def load(self, path: Path) -> Dataset:
        """Take the songs of a dataset file in place of those at hand. Raises DatasetError."""
        dataset = read_dataset(path)
        self._take(dataset, [])
        return dataset

    def take(self, dataset: Dataset) -> None:
        """Take songs that something else has read in place of those at hand."""
        self._take(dataset, [])

    def save(self, path: Path) -> None:
        """Write the dataset file. Raises DatasetError without songs, DiskFull, NotWritable, StorageError."""
        with self._lock:
            if self.dataset is None:
                raise DatasetError("there are no songs yet", hint="Scan a folder in 2. Dataset first.")
            write_dataset(path, self.dataset)

    def describe(self, **metadata: Any) -> None:
        """Change what holds for all songs: name, custom_tag, tag_position, genre_ratio."""
        with self._lock:
            if self.dataset is None or metadata.items() <= self.dataset.metadata.model_dump().items():
                return
            for key, value in metadata.items():
                setattr(self.dataset.metadata, key, value)
            for sample in self.dataset.samples:
                sample.custom_tag = self.dataset.metadata.custom_tag
            self._changed()

    def relabel(self, changes: Mapping[int, Mapping[str, Any]]) -> int:
        """Set label fields of songs, by their place in the list; gives the number of songs that changed.

        Raises:
            DatasetError: a value makes no sense for its field; nothing is changed then.
        """
        with self._lock:
            after = list(self.samples)
            for index, labels in changes.items():
                after[index] = _relabelled(after[index], labels)
            changed = sum(one != other for one, other in zip(after, self.samples, strict=True))
            if changed and self.dataset is not None:
                self._before = [*self._before[-_UNDO_STEPS:], self.samples]
                self.dataset.samples = after
                self._changed()
            return changed

    def undo(self) -> None:
        """Take the last change back. Raises DatasetError when there is none."""
        with self._lock:
            if not self._before or self.dataset is None:
                raise DatasetError("there is nothing to undo")
            self.dataset.samples = self._before.pop()
            self._changed()

    def _take(self, dataset: Dataset, problems: list[Problem]) -> None:
        with self._lock:
            self.dataset, self.problems, self._before = dataset, problems, []
            self._changed()

    def _changed(self) -> None:
        self.version += 1
        if self.dataset is not None:
            write_dataset(self._draft, self.dataset)

    def _read_draft(self) -> Dataset | None:
        try:
            return read_dataset(self._draft) if self._draft.exists() else None
        except (DatasetError, StorageError):  # told nowhere: it is scanned or loaded again like the first time
            return None


def _relabelled(sample: Sample, labels: Mapping[str, Any]) -> Sample:
    """A copy with those labels; what was changed is marked as typed by hand."""
    fresh = sample.model_copy(deep=True)
    for name, value in labels.items():
        before = getattr(fresh, name)
        try:
            setattr(fresh, name, value)
        except ValueError as problem:
            reason = str(problem).splitlines()[-2].split("[type=")[0].strip().removeprefix("Value error, ")
            raise DatasetError(f"{sample.name}: {name} {reason}, not {value!r:.60}") from None
        if getattr(fresh, name) != before:
            fresh.sources[name] = BY_HAND
    if fresh.is_instrumental and not is_sung(fresh.lyrics):
        fresh.lyrics, fresh.language = INSTRUMENTAL, UNKNOWN_LANGUAGE
    fresh.labeled = fresh.has_caption
    return fresh
