"""Edits of samples: validation, writing them to the label files of the songs, and undo."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acestep.captioning.edits import Content, file_contents, restore_files, save_edit
from acestep.captioning.sidecar import as_dict, locked_labels, read_labels
from acestep.core.errors import AceStepError, DatasetError
from acestep.dataset.labels import FIELDS, INSTRUMENTAL, UNKNOWN_LANGUAGE, is_sung
from acestep.dataset.sample import Sample
from acestep.dataset.user_labels import USER, TypedLabels, UserLabel, UserLabels, changed_labels, merge_typed


def audio_key(sample: Sample) -> str:
    """What typed labels are stored under: the audio file."""
    return sample.audio_path or sample.id


@dataclass
class EditedSong:
    """One song of an edit, before and after it.

    Attributes:
        before: label -> (value, source).
        after: label -> value.
        typed: the typed labels before.
    """

    audio: str
    before: dict[str, tuple[Any, str]]
    after: dict[str, Any]
    typed: dict[str, UserLabel | None]
    files_before: Content = field(default_factory=dict)
    files_after: Content = field(default_factory=dict)

    @classmethod
    def of(cls, sample: Sample, after: Mapping[str, Any], user: UserLabels) -> EditedSong:
        """The song before the labels ``after`` are set."""
        before = {label: (getattr(sample, label), sample.sources.get(label, "")) for label in after}
        audio = audio_key(sample)
        return cls(audio, before, dict(after), user.copy_of(audio, after), _contents(sample))


def relabelled(sample: Sample, labels: Mapping[str, Any]) -> Sample:
    """A copy with those labels; the source of changed labels is the user. Raises DatasetError: an invalid value."""
    fresh = sample.model_copy(deep=True)
    for name, value in labels.items():
        try:
            setattr(fresh, name, FIELDS[name](value))
        except ValueError as problem:
            raise DatasetError(f"{sample.name}: {name} {problem}, not {value!r:.60}") from None
    if fresh.is_instrumental and not is_sung(fresh.lyrics):
        fresh.lyrics = INSTRUMENTAL
        if not sample.is_instrumental and "language" not in labels:  # it was the language of the replaced lyrics
            fresh.language = UNKNOWN_LANGUAGE
    fresh.sources |= dict.fromkeys(changed_labels(sample, fresh), USER)
    fresh.labeled = fresh.has_caption
    return fresh


def record_edit(before: Sample, after: Sample, user: UserLabels) -> EditedSong:
    """Record what a person changed in one song. ``finish_edit`` writes it to the label files."""
    edited = EditedSong.of(before, changed_labels(before, after), user)
    user.record(edited.audio, {label: value for label, (value, _) in edited.before.items()}, edited.after)
    return edited


def finish_edit(edited: EditedSong, after: Sample, user: UserLabels) -> str:
    """Write typed labels that are in no file yet to the label files. Returns why this failed, "" if it did not."""
    problem = write_typed(after, user.of(edited.audio))
    edited.files_after = _contents(after)
    return problem


def write_typed(sample: Sample, typed: TypedLabels, only: Collection[str] | None = None) -> str:
    """Write typed labels that are in no file yet to the label files. Returns why this failed, "" if it did not."""
    labels = [label for label, entry in typed.items() if not entry.in_file and not entry.in_conflict]
    changes = {label: typed[label].value for label in labels if only is None or label in only}
    if not changes or not Path(sample.audio_path).is_file():
        return ""
    try:
        save_edit(sample, changes, backup=True)
    except AceStepError as error:
        return str(error)
    for label in changes:
        typed[label].in_file = True
    return ""


def undo_edit(songs: Sequence[EditedSong], samples: list[Sample], user: UserLabels) -> tuple[list[Sample], list[str]]:
    """Restore labels, typed labels and label files.

    Returns:
        The samples, and the names of songs whose label files changed since and were not restored.
    """
    by_audio = {edited.audio: edited for edited in songs}
    changed = []
    for edited in songs:
        user.restore(edited.audio, edited.typed)
        if not _restored(edited):
            changed.append(Path(edited.audio).name)
            for label, entry in user.of(edited.audio).items():
                if label in edited.after:  # a later scan finds the undone value, which counts as replaced
                    entry.set(entry.value, edited.after[label])
    return [_undone(sample, by_audio.get(audio_key(sample))) for sample in samples], changed


def _restored(edited: EditedSong) -> bool:
    try:
        return restore_files(edited.files_before, edited.files_after)
    except AceStepError:
        return False


def _undone(sample: Sample, edited: EditedSong | None) -> Sample:
    if edited is None:
        return sample
    fresh = sample.model_copy(deep=True)
    for label, (value, source) in edited.before.items():
        if getattr(fresh, label) == edited.after[label]:
            setattr(fresh, label, value)
            fresh.sources.pop(label, None)
            fresh.sources |= {label: source} if source else {}
    fresh.labeled = fresh.has_caption
    return fresh


def generated_in_files(sample: Sample) -> set[str]:
    """Labels of a scanned sample that a program wrote to the label files and nobody edited since."""
    try:
        known = read_labels(sample)
    except AceStepError:
        return set()
    return set(known.values) - known.locked


def generated_in_dataset(sample: Sample) -> set[str]:
    """Labels of a loaded sample whose source is a program."""
    files = (".txt", ".csv", ".json")
    return {label for label, who in sample.sources.items() if who != USER and not who.lower().endswith(files)}


def with_label_files(sample: Sample, typed: TypedLabels) -> Sample:
    """A copy of a sample with what its label files contain now; typed labels stay. The same sample if they fail."""
    try:
        with locked_labels(sample) as known:
            values, generated = dict(known.values), set(known.values) - known.locked
            sources = as_dict(known.extra.get("sources"))
    except AceStepError:
        return sample
    fresh = sample.model_copy(deep=True)
    for label, value in values.items():
        if getattr(fresh, label) != value or label in typed:
            setattr(fresh, label, value)
            fresh.sources[label] = str(sources.get(label) or "a label file")
    merge_typed(fresh, {label: entry for label, entry in typed.items() if label in values}, generated)
    return fresh


def _contents(sample: Sample) -> Content:
    try:
        return file_contents(sample) if Path(sample.audio_path).is_file() else {}
    except AceStepError:
        return {}
