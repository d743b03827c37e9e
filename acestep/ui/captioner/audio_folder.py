"""The songs of the selected folder with the labels in their files, read again when a job has written labels."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acestep.captioning.edits import EditHistory
from acestep.captioning.labeling_plan import song_name
from acestep.captioning.quality import check_captions
from acestep.captioning.sidecar import TAG, SongLabels, read_labels
from acestep.core.errors import AceStepError, DatasetError
from acestep.dataset.labels import Problem, is_sung
from acestep.dataset.sample import Dataset, Sample
from acestep.dataset.scan import scan_folder
from acestep.ui.autosave import Autosave


@dataclass(frozen=True, slots=True)
class SongEntry:
    """One song. ``name`` is its path below the folder; ``doubts`` describe what to check."""

    name: str
    sample: Sample
    known: SongLabels | None = None
    doubts: list[str] = field(default_factory=list)

    @property
    def has_lyrics(self) -> bool:
        """Whether lyrics are given, or that the song is instrumental."""
        return "lyrics" in self.sample.sources or is_sung(self.sample.lyrics)

    @property
    def lyrics(self) -> str:
        """One of yes, instrumental, missing."""
        if is_sung(self.sample.lyrics):
            return "yes"
        return "instrumental" if self.has_lyrics and self.sample.is_instrumental else "missing"

    @property
    def origins(self) -> list[str]:
        """The sources of its labels, each once."""
        named = (self.sample.sources.get(label) for label in ("caption", "bpm", "keyscale", "lyrics"))
        return list(dict.fromkeys("you" if who == "user" else who for who in named if who))


class AudioFolder:
    """The scanned folder. Thread-safe.

    Attributes:
        version: changes with the content.
        refreshed: changes with edits of many songs and undo.
    """

    def __init__(self) -> None:
        self._lock, self._edits = threading.Lock(), EditHistory()
        self.autosave, self.refreshed = Autosave(self._save_typed), 0
        self.root: Path | None = None
        self.entries: list[SongEntry] = []
        self._opened: dict[str, Sample] = {}  # the songs of all folders that were opened, by audio file
        self.problems: list[Problem] = []
        self.version = 0

    def open(self, folder: Path) -> None:
        """Read the labels of all songs of a folder. Raises DatasetError if it contains no songs."""
        with self._lock:
            found = scan_folder(folder)
            root = folder.resolve()
            names = {sample.id: song_name(Path(sample.audio_path), root) for sample in found.dataset.samples}
            doubts = _doubts(found.dataset)
            problems = list(found.problems)
            entries = []
            for sample in found.dataset.samples:
                known = None
                try:
                    known = read_labels(sample)
                except AceStepError as error:
                    problems.append(Problem(Path(sample.audio_path), str(error), error.hint))
                disagreements = known.extra.get("disagreements") if known else None
                differ = [str(line) for line in disagreements] if isinstance(disagreements, list) else []
                entries.append(SongEntry(names[sample.id], sample, known, [*differ, *doubts[sample.id]]))
            self.root, self.entries, self.problems = root, entries, problems
            self._opened |= {sample.audio_path: sample for sample in found.dataset.samples}
            self.version += 1

    def refresh(self) -> None:
        """Read all labels again. If the folder no longer exists, the list stays."""
        if self.root is not None:
            try:
                self.open(self.root)
            except AceStepError:
                return

    def find_audio(self, audio: str) -> SongEntry | None:
        """The song with that audio file, if it is in the list."""
        return next((entry for entry in self.entries if entry.sample.audio_path == audio), None)

    def find(self, name: str) -> SongEntry:
        """Raises DatasetError."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise DatasetError("this song is no longer in the list", hint="Scan the folder again.")

    def edit(self, name: str, changes: Mapping[str, Any]) -> None:
        """Save labels that the user edited. Raises DatasetError, StorageError."""
        self._edits.apply([(self.find(name).sample, changes)])
        self.refresh()

    def _save_typed(self, audio: str, changes: Mapping[str, Any], invalid: Mapping[str, str]) -> None:
        """Save labels of one audio file, also if another folder is open by now. Raises DatasetError, StorageError.

        Other paths are ignored: a request could name any file.
        """
        if changes and audio in self._opened:
            self._edits.apply([(self._opened[audio], changes)])
            self.refresh()

    @property
    def samples(self) -> list[Sample]:
        """The songs with the labels and trigger words that are in their files."""
        self.refresh()
        tags = [str(entry.known.extra.get(TAG) or "") if entry.known else "" for entry in self.entries]
        return [entry.sample.model_copy(update={TAG: tag}) for entry, tag in zip(self.entries, tags, strict=True)]

    def relabel(self, changes: Mapping[int, Mapping[str, Any]]) -> int:
        """Save labels of many songs by their index. Raises DatasetError, StorageError."""
        try:
            return self._edits.apply([(self.entries[index].sample, labels) for index, labels in changes.items()])
        finally:
            self.refreshed += 1
            self.refresh()

    def undo(self) -> None:
        """Undo the last change. Raises DatasetError if there is none or files changed since."""
        try:
            self._edits.undo()
        finally:
            self.refreshed += 1
            self.refresh()


def _doubts(dataset: Dataset) -> dict[str, list[str]]:
    """The findings of the caption checks by the id of the sample, without missing captions."""
    ids = {sample.name: sample.id for sample in dataset.samples}
    doubts: dict[str, list[str]] = defaultdict(list)
    for finding in check_captions(dataset):
        if finding.kind != "empty":
            doubts[ids[finding.song]].append(finding.message)
    return doubts
