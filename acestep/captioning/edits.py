"""Label edits by the user, with undo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acestep.captioning.sidecar import LABELS, TAG, USER, label_files, locked_labels, write_labels
from acestep.core.errors import DatasetError
from acestep.core.files import storage_errors, write_bytes
from acestep.dataset.labels import FIELDS
from acestep.dataset.sample import Sample

_UNDO_STEPS = 20

Content = dict[Path, bytes | None]  # None: the file does not exist


def save_edit(sample: Sample, changes: Mapping[str, Any], *, texts: bool = True) -> Sample:
    """Save labels that the user edited and lock them. Returns the updated sample.

    ``changes`` may contain the trigger word as ``custom_tag``.

    Raises:
        DatasetError: unknown label or invalid value.
        DiskFull, NotWritable, StorageError.
    """
    fresh = validate_labels(changes)
    tag = {TAG: str(changes[TAG] or "").strip()} if TAG in changes else {}
    with locked_labels(sample) as known:
        write_labels(known, {label: (value, USER) for label, value in fresh.items()}, extra=tag, texts=texts)
    return sample.model_copy(update={**fresh, "sources": {**sample.sources, **dict.fromkeys(fresh, USER)}})


def validate_labels(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Validate and convert edited labels. Raises DatasetError: unknown label or invalid value."""
    labels: dict[str, Any] = {}
    for label, value in changes.items():
        if label == TAG:
            continue
        if label not in LABELS:
            raise DatasetError(f"unknown label {label!r}", hint=f"Known: {', '.join((*LABELS, TAG))}.")
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
            before = _content(sample)
            save_edit(sample, changes)
            edit.append((before, _content(sample)))
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
            if any(_read(path) != content for path, content in after.items()):
                changed.append(next(iter(after)).name)
                continue
            for path, content in before.items():
                _restore(path, content)
        if changed:
            raise DatasetError(
                f"{len(changed)} label files changed since and were not restored, for example {changed[0]}",
                hint="The other songs were restored.",
            )


def _content(sample: Sample) -> Content:
    return {path: _read(path) for path in label_files(Path(sample.audio_path))}


def _read(path: Path) -> bytes | None:
    with storage_errors(path):
        return path.read_bytes() if path.is_file() else None


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        with storage_errors(path):
            path.unlink(missing_ok=True)
    elif _read(path) != content:
        write_bytes(path, content)
