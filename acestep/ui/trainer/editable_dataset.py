"""The dataset of the page: scan, load, edit, undo, save.

Every change is saved at once: to the draft, to the dataset file if there is one, and to the label files of the songs.
Labels that a person typed are also kept by audio file (``acestep/dataset/user_labels.py``) and merged into each scan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.errors import DatasetError, StorageError
from acestep.core.untrusted import exists
from acestep.dataset.labels import FIELDS, Problem, is_sung
from acestep.dataset.sample import Dataset, Sample
from acestep.dataset.scan import ScanResult, scan_folder
from acestep.dataset.store import read_dataset, write_dataset
from acestep.dataset.user_labels import USER, UserLabel, UserLabels, merge_typed
from acestep.ui.autosave import Autosave
from acestep.ui.trainer import label_edits
from acestep.ui.trainer.dataset_file import follow_file, update_file
from acestep.ui.trainer.label_edits import EditedSong, audio_key

_UNDO_STEPS = 100
_LYRIC_LABELS = ("lyrics", "language", "is_instrumental")  # resolved together


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over the dataset."""

    songs: int
    seconds: int
    labeled: int
    with_lyrics: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """A label with two versions written by people."""

    audio: str
    song: str
    label: str
    typed: Any
    found: Any
    source: str


class EditableDataset:
    """One dataset, shared by all open pages. Thread-safe.

    Attributes:
        version: changes with the dataset.
        refreshed: changes with everything but what is typed in the editor of one song.
        file_problem: why the dataset file was not updated; "" if it was.
        label_problems: why label files were not written, by audio file.
    """

    def __init__(self, draft: Path) -> None:
        self._draft, self._lock = draft, threading.RLock()
        self._history: list[list[EditedSong]] = []
        self.problems: list[Problem] = []
        self.version = self.refreshed = 0
        self._unsaved = False  # whether the draft could not be written
        self.file_problem, self.label_problems = "", dict[str, str]()
        self.user = UserLabels(draft.with_name(f"{draft.stem}.typed.json"))
        self.dataset = self._read_draft()
        invalid = {song_key(sample): self.user.invalid.get(audio_key(sample), {}) for sample in self.samples}
        self.autosave = Autosave(self._save_typed, invalid=invalid)

    @property
    def samples(self) -> list[Sample]:
        return self.dataset.samples if self.dataset else []

    @property
    def conflicts(self) -> list[Conflict]:
        """Labels with two versions; lyrics, language and instrumental count once."""
        found = []
        with self._lock:
            for sample in self.samples:
                typed = self.user.of(audio_key(sample))
                open_labels = [label for label, entry in typed.items() if entry.in_conflict]
                if "lyrics" in open_labels:
                    open_labels = [label for label in open_labels if label not in _LYRIC_LABELS[1:]]
                for label in open_labels:
                    each = typed[label]
                    found.append(
                        Conflict(audio_key(sample), sample.name, label, each.value, each.other, each.other_source)
                    )
        return found

    def statistics(self) -> Statistics:
        """Counts over the dataset."""
        songs = self.samples
        return Statistics(
            songs=len(songs),
            seconds=sum(song.duration for song in songs),
            labeled=sum(song.labeled for song in songs),
            with_lyrics=sum(is_sung(song.lyrics) for song in songs),
        )

    def not_written(self) -> str:
        """Which files do not contain what was typed, and why; "" if all do."""
        lines = [self.file_problem] if self.file_problem else []
        if songs := list(self.label_problems.items()):
            more = f" and {len(songs) - 1} more" if len(songs) > 1 else ""
            lines.append(f"The label files of {Path(songs[0][0]).name}{more} are not up to date: {songs[0][1]}.")
        return " ".join(lines)

    def close(self) -> None:
        """Before the program exits: save what was typed last."""
        self.autosave.flush()

    def scan(self, folder: Path, **options: Any) -> ScanResult:
        """Take the songs of a folder, with the labels that a person typed for them. Raises DatasetError."""
        self.autosave.flush()
        found = scan_folder(folder, **options)
        self._install(found.dataset, found.problems, label_edits.generated_in_files)
        return found

    def load(self, path: Path) -> Dataset:
        """Take the songs of a dataset file, with the labels that a person typed for them. Raises DatasetError."""
        self.autosave.flush()
        dataset = read_dataset(path)
        with self._lock:
            follow_file(self.user, path)
            self._install(dataset, [], label_edits.generated_in_dataset, keep_file=True)
        return dataset

    def replace(self, dataset: Dataset) -> None:
        """Take the songs of another dataset, with the labels that a person typed for them."""
        self.autosave.flush()
        self._install(dataset, [], label_edits.generated_in_dataset)

    def read_label_files(self) -> None:
        """Take the labels that a captioner has written to the label files since the scan."""
        with self._lock:
            fresh = [label_edits.with_label_files(song, self.user.of(audio_key(song))) for song in self.samples]
            if self.dataset is not None and fresh != self.samples:
                self.dataset.samples = fresh
                self._changed()

    def save(self, path: Path) -> None:
        """Write the dataset file and keep it up to date from now on.

        Raises DatasetError without songs, DiskFull, NotWritable, StorageError.
        """
        self.autosave.flush()  # takes the lock itself
        with self._lock:
            self._write(path)
            follow_file(self.user, path)
            self.file_problem = ""
            self.user.save()

    def write(self, path: Path) -> None:
        """Write a copy. Raises DatasetError without songs, DiskFull, NotWritable, StorageError."""
        self.autosave.flush()
        with self._lock:
            self._write(path)

    def _write(self, path: Path) -> None:
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
            self._changed(refresh=False)

    def relabel(self, changes: Mapping[int, Mapping[str, Any]]) -> int:
        """Set labels by the index of the sample; returns how many samples changed.

        Raises:
            DatasetError: a value is invalid for its label; nothing changes then.
            DiskFull, NotWritable, StorageError: the draft cannot be written.
        """
        with self._lock:
            return self._relabel(changes, refresh=True)

    def undo(self) -> None:
        """Undo the last change, also in the files.

        Raises:
            DatasetError: there is none, or some label files changed since and were not restored.
            DiskFull, NotWritable, StorageError.
        """
        self.autosave.flush()
        with self._lock:
            if not self._history or self.dataset is None:
                raise DatasetError("there is nothing to undo")
            self.dataset.samples, changed = label_edits.undo_edit(self._history.pop(), self.samples, self.user)
            self._changed()
        if changed:
            raise DatasetError(
                f"the label files of {len(changed)} songs changed since and were not restored, such as {changed[0]}",
                hint="Scan the folder to see what they contain.",
            )

    def resolve(self, conflict: Conflict, *, keep_typed: bool) -> None:
        """Use one of two versions of a label. Raises DiskFull, NotWritable, StorageError."""
        labels = _LYRIC_LABELS if conflict.label in _LYRIC_LABELS else (conflict.label,)
        with self._lock:
            typed = self.user.of(conflict.audio)
            found = {label: typed[label] for label in labels if label in typed and typed[label].in_conflict}
            index = next((i for i, song in enumerate(self.samples) if audio_key(song) == conflict.audio), None)
            if index is None or not found:
                return
            sample = self.samples[index].model_copy(deep=True)
            chosen = {label: entry.value if keep_typed else entry.other for label, entry in found.items()}
            edited = EditedSong.of(sample, chosen, self.user)
            for label, entry in found.items():
                sample.sources[label] = USER if keep_typed else entry.other_source
                setattr(sample, label, chosen[label])
                entry.settle()
            sample.labeled = sample.has_caption
            self._replace_samples({index: sample}, [edited])
            if not keep_typed:
                self.user.restore(conflict.audio, dict.fromkeys(found))
            self._note(conflict.audio, label_edits.finish_edit(edited, sample, self.user))
            self._changed()

    def _save_typed(self, key: str, labels: Mapping[str, Any], invalid: Mapping[str, str]) -> None:
        """Save what was typed for one song, also if it is no longer in the list."""
        audio = key.partition("|")[2] or key.partition("|")[0]
        with self._lock:
            had = self.user.invalid.get(audio, {})
            self.user.invalid[audio] = dict(invalid)
            index = next((i for i, sample in enumerate(self.samples) if song_key(sample) == key), None)
            if index is None:
                self.user.record(audio, {}, {label: FIELDS[label](value) for label, value in labels.items()})
                self.user.save()
            elif not self._relabel({index: labels}, refresh=False) and (had != invalid or self._unsaved):
                self._changed(refresh=False)

    def _relabel(self, changes: Mapping[int, Mapping[str, Any]], *, refresh: bool) -> int:
        before = self.samples
        after = {index: label_edits.relabelled(before[index], labels) for index, labels in changes.items()}
        changed = {index: sample for index, sample in after.items() if sample != before[index]}
        if changed:
            songs = [label_edits.record_edit(before[index], sample, self.user) for index, sample in changed.items()]
            self._replace_samples(changed, songs)
            for edited, sample in zip(songs, changed.values(), strict=True):
                self._note(edited.audio, label_edits.finish_edit(edited, sample, self.user))
            self._changed(refresh=refresh)
        return len(changed)

    def _replace_samples(self, changed: Mapping[int, Sample], songs: list[EditedSong]) -> None:
        assert self.dataset is not None
        self._history = [*self._history[1 - _UNDO_STEPS :], songs]
        self.dataset.samples = [changed.get(index, sample) for index, sample in enumerate(self.samples)]

    def _note(self, audio: str, problem: str) -> None:
        self.label_problems.pop(audio, None)
        if problem:
            self.label_problems[audio] = problem

    def _install(
        self,
        dataset: Dataset,
        problems: list[Problem],
        generated: Callable[[Sample], set[str]],
        *,
        keep_file: bool = False,
    ) -> None:
        with self._lock:
            known = {audio_key(sample) for sample in self.samples}
            if not keep_file and not any(audio_key(sample) in known for sample in dataset.samples):
                self.user.dataset_file = ""  # a dataset of other songs
            self.label_problems = {}
            for sample in dataset.samples:
                typed = self.user.of(audio_key(sample))
                if typed:
                    unsaved = [label for label, entry in typed.items() if not entry.in_file]
                    merge_typed(sample, typed, generated(sample))
                    self._note(audio_key(sample), label_edits.write_typed(sample, typed, unsaved))
            self.dataset, self.problems = dataset, problems
            self._changed()

    def _changed(self, *, refresh: bool = True) -> None:
        self.version += 1
        self.refreshed += refresh
        self._unsaved = True
        if self.dataset is not None:
            write_dataset(self._draft, self.dataset)
            self.file_problem = update_file(self.user, self.dataset)
        self.user.save()
        self._unsaved = False

    def _read_draft(self) -> Dataset | None:
        try:
            dataset = read_dataset(self._draft) if exists(self._draft) else None
        except (DatasetError, StorageError):  # a damaged draft: the user scans or loads again
            return None
        if dataset is not None and not self.user.existed:  # the draft of an earlier version
            for sample in dataset.samples:
                labels = {label: getattr(sample, label) for label in FIELDS if sample.sources.get(label) == USER}
                self.user.restore(audio_key(sample), {label: UserLabel(value) for label, value in labels.items()})
        return dataset


def song_key(sample: Sample) -> str:
    """Identifies a sample, also after another folder was scanned."""
    return f"{sample.id}|{sample.audio_path}"
