"""What a person says of songs: of one, or of many at once, which can be taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acestep.captioning.sidecar import LABELS, TAG, USER, at_hand, label_files, write_labels
from acestep.core.errors import DatasetError
from acestep.core.files import storage_errors, write_bytes
from acestep.dataset.labels import FIELDS
from acestep.dataset.sample import Sample

_UNDO_STEPS = 20

Content = dict[Path, bytes | None]  # None: there is no such file


def save_edit(sample: Sample, changes: Mapping[str, Any], *, texts: bool = True) -> Sample:
    """Save what a person typed: those labels are locked from now on. Gives the song as it is then.

    ``changes`` may hold the trigger word too, as ``custom_tag``.

    Raises:
        DatasetError: no such label, or a value that cannot be.
        DiskFull, NotWritable, StorageError.
    """
    fresh = checked(changes)
    tag = {TAG: str(changes[TAG] or "").strip()} if TAG in changes else {}
    with at_hand(sample) as known:
        write_labels(known, {label: (value, USER) for label, value in fresh.items()}, extra=tag, texts=texts)
    return sample.model_copy(update={**fresh, "sources": {**sample.sources, **dict.fromkeys(fresh, USER)}})


def checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The labels among what a person typed, in their form. Raises DatasetError: no such label, an impossible value."""
    labels: dict[str, Any] = {}
    for label, value in changes.items():
        if label == TAG:
            continue
        if label not in LABELS:
            raise DatasetError(f"no label is called {label!r}", hint=f"Known: {', '.join((*LABELS, TAG))}.")
        try:
            labels[label] = value if value in (None, "") else FIELDS[label](value)
        except ValueError as problem:
            raise DatasetError(f"{label} {problem}, not {value!r}") from None
    return labels


class Edits:
    """Makes them, and remembers the files of before."""

    def __init__(self) -> None:
        self._made: list[list[tuple[Content, Content]]] = []

    def apply(self, songs: Sequence[tuple[Sample, Mapping[str, Any]]]) -> int:
        """Save these labels of these songs as ``save_edit`` does; gives the number of songs.

        Raises:
            DatasetError: a value that cannot be; nothing is changed then.
            DiskFull, NotWritable, StorageError: the songs before it are changed, which can be taken back.
        """
        for _, changes in songs:
            checked(changes)
        made: list[tuple[Content, Content]] = []
        if songs:
            self._made = [*self._made[1 - _UNDO_STEPS :], made]
        for sample, changes in songs:
            before = _content(sample)
            save_edit(sample, changes)
            made.append((before, _content(sample)))
        return len(made)

    def undo(self) -> None:
        """Put the files of before the last change back; those that were changed since are left alone.

        Raises:
            DatasetError: there is nothing to undo, or files were left alone.
            DiskFull, NotWritable, StorageError.
        """
        if not self._made:
            raise DatasetError("there is nothing to undo")
        changed = []
        for before, after in self._made.pop():
            if any(_read(path) != content for path, content in after.items()):
                changed.append(next(iter(after)).name)
                continue
            for path, content in before.items():
                _restore(path, content)
        if changed:
            raise DatasetError(
                f"{len(changed)} label files were changed since and stay as they are, {changed[0]} among them",
                hint="The other songs are as they were before.",
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
