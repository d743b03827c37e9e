"""Label edits by the user, with undo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acestep.captioning.sidecar import LABELS, TAG, USER, label_files, locked_labels, write_labels
from acestep.core.errors import DatasetError
from acestep.core.files import storage_errors, write_bytes
from acestep.core.untrusted import is_file
from acestep.dataset.labels import FIELDS
from acestep.dataset.sample import Sample

_UNDO_STEPS = 20
_NOT_LABELS = (TAG, "prompt_override")  # stored in the same file, but never generated

Content = dict[Path, bytes | None]  # None: the file does not exist


def save_edit(sample: Sample, changes: Mapping[str, Any], *, texts: bool = True, backup: bool = False) -> Sample:
    """Save labels that the user edited and lock them. Returns the updated sample.

    ``changes`` may contain the trigger word as ``custom_tag``, and ``prompt_override``.

    Args:
        texts: also write caption and lyrics to their text files.
        backup: keep label files that this program did not write as ``.bak``, unless such files exist.

    Raises:
        DatasetError: unknown label or invalid value.
        CaptionError: the caption is an error message.
        DiskFull, NotWritable, StorageError.
    """
    fresh = validate_labels(changes)
    extra = {label: fresh.pop(label) for label in _NOT_LABELS if label in fresh}
    with locked_labels(sample) as known:
        labels = {label: (value, USER) for label, value in fresh.items()}
        write_labels(known, labels, extra=extra, texts=texts, backup=backup and "sources" not in known.extra)
    return sample.model_copy(update={**fresh, "sources": {**sample.sources, **dict.fromkeys(fresh, USER)}})


def validate_labels(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Validate and convert edited labels. Raises DatasetError: unknown label or invalid value."""
    labels: dict[str, Any] = {}
    for label, value in changes.items():
        if label == TAG:
            labels[label] = str(value or "").strip()
            continue
        if label not in (*LABELS, *_NOT_LABELS):
            raise DatasetError(f"unknown label {label!r}", hint=f"Known: {', '.join((*LABELS, *_NOT_LABELS))}.")
        try:
            labels[label] = value if value in (None, "") else FIELDS[label](value)
        except ValueError as problem:
            raise DatasetError(f"{label} {problem}, not {value!r}") from None
    return labels


class EditHistory:
    """Applies edits and keeps the previous files for undo."""

    def __init__(self) -> None:
        self._history: list[list[tuple[Content, Content]]] = []

    def apply(self, songs: Sequence[tuple[Sample, Mapping[str, Any]]]) -> int:
        """Save labels of several songs, see ``save_edit``. Returns the number of songs.

        Raises:
            DatasetError: an invalid value; nothing is changed.
            DiskFull, NotWritable, StorageError: earlier songs are changed, which can be undone.
        """
        for _, changes in songs:
            validate_labels(changes)
        edit: list[tuple[Content, Content]] = []
        if songs:
            self._history = [*self._history[1 - _UNDO_STEPS :], edit]
        for sample, changes in songs:
            before = file_contents(sample)
            save_edit(sample, changes)
            edit.append((before, file_contents(sample)))
        return len(edit)

    def undo(self) -> None:
        """Restore the files from before the last edit, except files that changed since.

        Raises:
            DatasetError: nothing to undo, or some files were not restored.
            DiskFull, NotWritable, StorageError.
        """
        if not self._history:
            raise DatasetError("nothing to undo")
        changed = []
        for before, after in self._history.pop():
            if not restore_files(before, after):
                changed.append(next(iter(after)).name)
        if changed:
            raise DatasetError(
                f"{len(changed)} label files changed since and were not restored, for example {changed[0]}",
                hint="The other songs were restored.",
            )


def file_contents(sample: Sample) -> Content:
    """The contents of the label files of a song, for ``restore_files``. Raises StorageError."""
    return {path: _read(path) for path in label_files(Path(sample.audio_path))}


def restore_files(before: Content, after: Content) -> bool:
    """Restore label files, unless they changed since ``after``; returns whether it did. Raises StorageError."""
    if any(_read(path) != content for path, content in after.items()):
        return False
    for path, content in (dict.fromkeys(after) | before).items():
        _restore(path, content)
    return True


def _read(path: Path) -> bytes | None:
    with storage_errors(path):
        return path.read_bytes() if is_file(path) else None


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        with storage_errors(path):
            path.unlink(missing_ok=True)
    elif _read(path) != content:
        write_bytes(path, content)
