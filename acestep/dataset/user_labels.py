"""Labels that a person typed, kept by audio file, and the rules that merge them into scanned or loaded samples.

A label file may be read-only, or change in another program, and a scan may no longer find the song. What a person typed
is therefore also stored in a separate file. The merge rules, for each label that was typed for a song:

- the files have no such value, the same one, or one that the typed value replaced: the typed value is used;
- a program generated the value, and the typed value never reached the file: the typed value is used;
- otherwise there are two versions. The typed one is used, and the other one is kept until a person chooses.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from loguru import logger

from acestep.core import renames
from acestep.core.errors import DatasetError
from acestep.core.files import read_versioned, write_versioned
from acestep.dataset.labels import FIELDS, INSTRUMENTAL, UNKNOWN_LANGUAGE
from acestep.dataset.sample import Sample

USER = "user"  # source of a label that was edited on a page; captioners do not overwrite such labels
_KIND, _VERSION = "user_labels", 1
_MAX_REPLACED = 200


@dataclass(slots=True)
class UserLabel:
    """One typed label.

    Attributes:
        value: the typed value.
        replaced: digests of the values that it replaced.
        in_file: whether a label file of the song contains it.
        other: a different version, found in a file.
        other_source: where ``other`` is from; empty if there is no other version.
    """

    value: Any
    replaced: list[str] = field(default_factory=list)
    in_file: bool = False
    other: Any = None
    other_source: str = ""

    @property
    def in_conflict(self) -> bool:
        return bool(self.other_source)

    def set(self, value: Any, before: Any) -> None:
        """A person replaced ``before`` by ``value``."""
        digests = [digest for digest in (*self.replaced, _digest(before)) if digest != _digest(value)]
        self.replaced = list(dict.fromkeys(digests))[-_MAX_REPLACED:]
        self.value, self.in_file = value, False

    def settle(self) -> None:
        """Use the typed value; the other version counts as replaced."""
        if self.in_conflict:
            self.set(self.value, self.other)
            self.other, self.other_source = None, ""


TypedLabels = dict[str, UserLabel]


def merge_typed(sample: Sample, typed: TypedLabels, generated: Collection[str]) -> None:
    """Put typed labels into a scanned or loaded sample, and note other versions in ``typed``.

    Args:
        generated: labels of ``sample`` that a program wrote and nobody edited.
    """
    for label, entry in typed.items():
        found = getattr(sample, label)
        is_same = _digest(found) == _digest(entry.value)
        is_older = _is_missing(sample, label) or _digest(found) in entry.replaced
        if is_same or is_older or (label in generated and not entry.in_file):
            entry.in_file = is_same and label in sample.sources
            entry.other, entry.other_source = None, ""
        else:
            entry.other, entry.other_source = found, sample.sources.get(label) or "the dataset file"
        setattr(sample, label, entry.value)
        sample.sources[label] = USER
    sample.labeled = sample.has_caption


def changed_labels(before: Sample, after: Sample) -> dict[str, Any]:
    """The labels that differ, with their new values."""
    return {label: getattr(after, label) for label in FIELDS if getattr(before, label) != getattr(after, label)}


class UserLabels:
    """All typed labels by audio file, in a JSON file.

    Attributes:
        songs: audio file -> label -> typed label.
        invalid: audio file -> label -> text that is no valid value, as it was typed.
        dataset_file: where the dataset was saved to or loaded from; empty if neither.
        dataset_digest: digest of that file when it was last written or read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.songs: dict[str, TypedLabels] = {}
        self.invalid: dict[str, dict[str, str]] = {}
        self.dataset_file = self.dataset_digest = ""
        self.existed = path.exists()
        self._read()

    def of(self, audio: str) -> TypedLabels:
        """The typed labels of a song."""
        return self.songs.get(audio, {})

    def record(self, audio: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """A person changed labels of a song from the values ``before`` to ``after``."""
        song = self.songs.setdefault(audio, {})
        for label, value in after.items():
            song.setdefault(label, UserLabel(value)).set(value, before.get(label))

    def copy_of(self, audio: str, labels: Collection[str]) -> dict[str, UserLabel | None]:
        """Copies of typed labels for ``restore``; None for those that were not typed."""
        return {label: copy.deepcopy(self.of(audio).get(label)) for label in labels}

    def restore(self, audio: str, labels: Mapping[str, UserLabel | None]) -> None:
        """Set typed labels to what they were."""
        song = self.songs.setdefault(audio, {})
        for label, entry in labels.items():
            song.pop(label, None)
            if entry is not None:
                song[label] = copy.deepcopy(entry)
        if not song:
            del self.songs[audio]

    def save(self) -> None:
        """Raises DiskFull, NotWritable, StorageError."""
        songs = {
            audio: {label: asdict(entry) for label, entry in song.items()} for audio, song in self.songs.items() if song
        }
        invalid = {audio: texts for audio, texts in self.invalid.items() if texts}
        file = {"dataset_file": self.dataset_file, "dataset_digest": self.dataset_digest}
        write_versioned(self._path, _KIND, _VERSION, {"songs": songs, "invalid": invalid, **file})

    def _read(self) -> None:
        if not self.existed:
            return
        try:
            data = read_versioned(self._path, _KIND, _VERSION, error=DatasetError)
            names = {each.name for each in fields(UserLabel)}
            for audio, song in data.get("songs", {}).items():
                known = {label: values for label, values in song.items() if label in FIELDS}
                self.songs[audio] = {
                    label: UserLabel(**{name: value for name, value in values.items() if name in names})
                    for label, values in known.items()
                }
            self.invalid = {audio: dict(texts) for audio, texts in data.get("invalid", {}).items()}
            self.dataset_file, self.dataset_digest = str(data["dataset_file"]), str(data["dataset_digest"])
        except (DatasetError, AttributeError, KeyError, TypeError, ValueError) as error:
            logger.warning("the typed labels cannot be read, {} is kept aside: {}", self._path, error)
            renames.replace(self._path, self._path.with_suffix(".damaged.json"))


def _is_missing(sample: Sample, label: str) -> bool:
    """Whether no file gave the sample this label."""
    value = getattr(sample, label)
    no_value = value in (None, "", UNKNOWN_LANGUAGE, INSTRUMENTAL) or isinstance(value, bool)
    return no_value and label not in sample.sources


def _digest(value: Any) -> str:
    """A short digest of a value; white space around text does not count."""
    if isinstance(value, str):
        value = value.replace("\r\n", "\n").strip()
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:12]
