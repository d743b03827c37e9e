"""Read and write the label files of a song: labels, their sources, and which labels may be overwritten.

For each generated label the JSON file stores its source (``sources``) and a digest of its value (``written``). A label
whose digest is missing or different was edited by a person, in any program, and is locked. A text file that was edited
after it was written is locked too.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.core.errors import CaptionError, DatasetError
from acestep.core.files import read_json, storage_errors, write_bytes, write_json, write_text
from acestep.core.untrusted import exists, is_file
from acestep.dataset.identity import filename_key
from acestep.dataset.labels import INSTRUMENTAL, UNKNOWN_LANGUAGE, Labels, is_failure
from acestep.dataset.merge import merge_labels
from acestep.dataset.sample import Sample
from acestep.dataset.sidecars import FolderListing, read_sidecars, sidecar_path, write_sidecar
from acestep.dataset.text_files import read_text

USER = "user"
LABELS = ("caption", "genre", "bpm", "keyscale", "timesignature", "lyrics", "language", "is_instrumental")
TAG = "custom_tag"  # the trigger word: stored in the same file, but not a label
LYRIC_LABELS = ("lyrics", "language", "is_instrumental")
TEXT_FILES = {"caption": ".caption.txt", "lyrics": ".lyrics.txt"}


_writing = threading.Lock()


@dataclass
class SongLabels:
    """The labels of a song.

    Attributes:
        audio: the audio file.
        values: label -> value.
        locked: labels that a person edited.
        extra: content of the JSON file.
    """

    audio: Path
    values: dict[str, Any]
    locked: set[str]
    extra: dict[str, Any] = field(default_factory=dict)

    def may_write(self, label: str, existing: str) -> bool:
        """Whether a job may write ``label`` with this setting of ``existing``: keep, redo or replace."""
        if existing == "replace" or label not in self.values:
            return True
        return existing == "redo" and label not in self.locked

    def edited_since(self, before: SongLabels) -> set[str]:
        """Labels that a person edited since ``before``. A job keeps them with any setting of ``existing``.

        Lyrics, language and ``is_instrumental`` count as one label.
        """
        fresh = {
            label
            for label in self.locked
            if label not in before.locked or self.values[label] != before.values.get(label)
        }
        instrumental = "is_instrumental" in fresh and self.values["is_instrumental"]
        return fresh | set(LYRIC_LABELS) if instrumental or "lyrics" in fresh else fresh

    def record_written(self, labels: Mapping[str, tuple[Any, str]], extra: dict[str, Any]) -> None:
        """Record that a job wrote ``labels``; ``extra`` is the new content of the JSON file."""
        self.values |= {label: value for label, (value, _) in labels.items()}
        self.locked -= set(labels)
        self.extra = extra


@contextmanager
def locked_labels(sample: Sample) -> Iterator[SongLabels]:
    """Read the label files of a song and lock them against other threads of this process until the block ends.

    Labels from a CSV table are kept as they were scanned. Raises DatasetError, see ``read_labels``.
    """
    with _writing:
        audio = Path(sample.audio_path)
        from_table = {
            label: getattr(sample, label) for label, who in sample.sources.items() if who.lower().endswith(".csv")
        }
        with storage_errors(audio.parent):
            neighbors = FolderListing(audio.parent.iterdir())
        layers = [Labels(Path("table.csv"), from_table, sample.sources), *read_sidecars(audio, neighbors, [])]
        yield read_labels(sample.model_copy(update=merge_labels(layers, all_instrumental=True, problems=[])))


def read_labels(sample: Sample) -> SongLabels:
    """The labels of a scanned song. Raises DatasetError if its JSON file cannot be read."""
    audio = Path(sample.audio_path)
    path = sidecar_path(audio)
    extra = read_json(path, error=DatasetError, hint="Correct or delete the file.") if exists(path) else {}
    if not isinstance(extra, dict):
        raise DatasetError(f"{path} does not contain labels", hint="Move it to another folder.")
    values = {label: getattr(sample, label) for label in LABELS if label in sample.sources}
    digests = as_dict(extra.get("written"))
    locked = {label for label, value in values.items() if digests.get(label) != _digest(value)}
    known = SongLabels(audio, values, locked, extra)
    _apply_edited_text_files(known)
    return known


def _apply_edited_text_files(known: SongLabels) -> None:
    """Use and lock texts that differ from the generated label in the JSON file."""
    for label, ending in TEXT_FILES.items():
        path = known.audio.with_name(f"{known.audio.stem}{ending}")
        if label in known.locked or label not in known.values or not is_file(path):
            continue
        text = (read_text(path, []) or "").strip()
        if text and text != str(known.values[label]).strip():
            known.values[label] = text
            known.locked.add(label)


def write_labels(
    known: SongLabels,
    labels: Mapping[str, tuple[Any, str]],
    *,
    extra: Mapping[str, Any],
    texts: bool,
    backup: bool = False,
) -> Path:
    """Write labels with their sources. Returns the path of the JSON file.

    Args:
        labels: name -> (value, source). The source ``USER`` locks a label.
        extra: further values for the JSON file.
        texts: also write caption and lyrics to their text files.
        backup: keep the old files as ``.bak``, unless such files exist.

    Raises:
        CaptionError: the caption is an error message.
        DatasetError, DiskFull, NotWritable, StorageError.
    """
    caption, source = labels.get("caption", ("-", USER))
    if is_failure(str(caption)) or (source != USER and not str(caption).strip()):
        raise CaptionError(f"the caption of {known.audio.name} is empty or an error message")
    shares_stem = has_same_stem(known.audio)
    separate = known.audio.with_name(f"{known.audio.name}.json")
    if shares_stem and not exists(separate):
        write_json(separate, {})  # two songs with the same stem: each gets its own JSON file
    changed = [
        known.audio.with_name(f"{known.audio.stem}{TEXT_FILES[label]}") for label in labels if label in TEXT_FILES
    ]
    if backup:
        _back_up([sidecar_path(known.audio), *changed])
    if not shares_stem:
        for path in changed:  # before the JSON: after a crash, an old text file would look like an edit
            with storage_errors(path):
                path.unlink(missing_ok=True)
    path = write_sidecar(known.audio, _content(known, labels, extra))
    if texts and not shares_stem:
        if "caption" in labels:
            write_caption(known.audio, str(labels["caption"][0]))
        if "lyrics" in labels:
            write_lyrics(known.audio, str(labels["lyrics"][0]))
    return path


def complete_texts(known: SongLabels) -> None:
    """Write the text files of generated labels that are missing because a job was killed after it wrote the JSON file.

    Raises:
        DiskFull, NotWritable, StorageError.
    """
    if has_same_stem(known.audio):
        return
    for label, write in (("caption", write_caption), ("lyrics", write_lyrics)):
        path = known.audio.with_name(f"{known.audio.stem}{TEXT_FILES[label]}")
        if label in known.values and label not in known.locked and not exists(path):
            write(known.audio, str(known.values[label]))


def _content(known: SongLabels, labels: Mapping[str, tuple[Any, str]], extra: Mapping[str, Any]) -> dict[str, Any]:
    """New content of the JSON file: values, sources and digests, including edits from text files."""
    sources, written = (dict(as_dict(known.extra.get(name))) for name in ("sources", "written"))
    content: dict[str, Any] = {}
    for label in TEXT_FILES:
        if label in known.locked and label not in labels and label in known.extra:
            content[label] = known.values[label]
            if written.pop(label, None):
                sources[label] = USER
    for label, (value, source) in labels.items():
        content[label], sources[label] = value, source
        known.values[label] = value
        written.pop(label, None)
        known.locked.discard(label)
        if source == USER:
            known.locked.add(label)
        else:
            written[label] = _digest(value)
    known.extra = {**known.extra, **content, **extra, "sources": sources, "written": written}
    return {**content, **extra, "sources": sources, "written": written}


def label_files(audio: Path) -> list[Path]:
    """The label files of a song, the JSON file first."""
    return [sidecar_path(audio), *(audio.with_name(f"{audio.stem}{ending}") for ending in TEXT_FILES.values())]


def has_same_stem(audio: Path) -> bool:
    """Whether another audio file in the folder differs in the suffix only."""
    name = filename_key(audio.stem)
    return any(
        path.name != audio.name and path.suffix.lower() in AUDIO_EXTENSIONS and filename_key(path.stem) == name
        for path in audio.parent.iterdir()
    )


def write_caption(audio: Path, caption: str) -> None:
    """Write ``song.caption.txt`` next to the audio file, unless the caption is empty."""
    if caption.strip():
        write_text(audio.with_name(f"{audio.stem}{TEXT_FILES['caption']}"), caption.strip() + "\n")


def write_lyrics(audio: Path, lyrics: str) -> None:
    """Write ``song.lyrics.txt`` next to the audio file, unless the song is instrumental."""
    if lyrics.strip() not in ("", INSTRUMENTAL):
        write_text(audio.with_name(f"{audio.stem}{TEXT_FILES['lyrics']}"), lyrics.strip() + "\n")


def lyric_labels(text: str, language: str, source: str) -> dict[str, tuple[Any, str]]:
    """The labels lyrics, language and is_instrumental, which are written together."""
    instrumental = text.strip() == INSTRUMENTAL
    return {
        "lyrics": (text.strip(), source),
        "language": (UNKNOWN_LANGUAGE if instrumental else language, source),
        "is_instrumental": (instrumental, source),
    }


def as_dict(value: Any) -> dict[str, Any]:
    """``value`` if it is a dictionary, else an empty dictionary."""
    return value if isinstance(value, dict) else {}


def _back_up(paths: Iterable[Path]) -> None:
    for path in paths:
        copy = path.with_name(f"{path.name}.bak")
        if is_file(path) and not exists(copy):
            write_bytes(copy, path.read_bytes())


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:12]
