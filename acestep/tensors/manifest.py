"""Read and write ``manifest.json``, the list of the ``.pt`` files of a dataset (docs/FORMATS.md).

Writes version 2 of the manifest of ace-lora-trainer. Reads versions 1 and 2, the list of names of Side-Step, and
folders without a manifest. Entries are resolved inside the folder, so a dataset can be moved. Importing this module
does not import torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from acestep.core.errors import TensorError
from acestep.core.files import read_json, write_json
from acestep.core.untrusted import exists, is_file, is_folder

if TYPE_CHECKING:
    from acestep.tensors.record import TensorRecord

NAME = "manifest.json"
VERSION = 2

# Metadata of the tensors that the ACE-Step app makes with "Preprocess For: LoKr"; their context holds the song itself.
PREPROCESS_MODE, SONG_CONTEXT_MODE = "preprocess_mode", "lokr"

_MAX_BYTES = 512 * 2**20  # the lyrics of 10,000 songs exceed the usual limit of JSON files
_MAX_PICKLE_BYTES = 2**20
_DTYPE_BYTES = {"torch.float64": 8, "torch.float32": 4, "torch.bfloat16": 2, "torch.float16": 2}
_HINT = "Preprocess a dataset into this folder, or use a folder that contains one."


@dataclass(frozen=True, slots=True)
class SampleDetails:
    """The manifest entry of one file. ``path`` and ``filename`` are both its base name."""

    path: str
    filename: str
    file_size_bytes: int
    shapes: dict[str, list[int]]
    dtype: str
    md5: str
    sample_metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the samples of a dataset: the longest in latent frames and condition tokens, their number, and bytes.

    ``num_bytes`` counts latents and conditions; silent contexts are not kept for each sample.
    """

    longest: int
    tokens: int
    songs: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The dataset in a folder.

    Attributes:
        paths: the existing ``.pt`` files in the order of the manifest.
        version: 0 without a manifest.
        metadata: metadata of the dataset (name, tag, tag position, genre ratio).
        preprocessing: settings of the preprocessing.
        missing: entries without a file.
        problems: warnings for the user.
        song_contexts: the contexts hold the songs themselves, according to the first file. Training replaces them.
        sizes: None if the manifest does not state them.
    """

    folder: Path
    paths: list[Path]
    version: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    song_contexts: bool = False
    sizes: Sizes | None = None


def sample_details(name: str, record: TensorRecord, data: bytes) -> SampleDetails:
    """Return the manifest entry of the file ``name`` with the content ``record``, serialized as ``data``."""
    tensors = record.tensors()
    return SampleDetails(
        path=name,
        filename=name,
        file_size_bytes=len(data),
        shapes={key: list(tensor.shape) for key, tensor in tensors.items()},
        dtype=str(record.target_latents.dtype),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        sample_metadata=dict(sorted(record.metadata.items())),  # the same order as in the .pt file
    )


def write_manifest(
    folder: Path, details: Iterable[SampleDetails], *, metadata: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> None:
    """Write the manifest of ``folder``, replacing an existing one.

    Args:
        details: entries in the order of the dataset.
        metadata: metadata of the dataset (name, tag, tag position, genre ratio, ...).
        preprocessing: settings of the preprocessing.

    Raises:
        DiskFull, NotWritable, StorageError.
    """
    entries = list(details)
    content = {
        "version": VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "metadata": dict(metadata),
        "samples": [entry.path for entry in entries],
        "sample_details": [asdict(entry) for entry in entries],
        "num_samples": len(entries),
        "total_size_bytes": sum(entry.file_size_bytes for entry in entries),
        "preprocessing": dict(preprocessing),
    }
    write_json(folder / NAME, content)


def read_manifest(folder: Path) -> Manifest:
    """Return the dataset in ``folder``; without a readable manifest, all ``.pt`` files in it.

    Raises:
        TensorError: no tensor files, or an entry that refers to a file outside the folder.
    """
    if not is_folder(folder):
        raise TensorError(f"{folder} is not a folder", hint=_HINT)
    content, problem = _read_content(folder / NAME)
    if content is None:
        manifest = Manifest(folder, list_tensor_files(folder), problems=[problem] if problem else [])
    else:
        manifest = _from_content(folder, content)
    if not manifest.paths:
        missing = f": all {len(manifest.missing)} files in its manifest are missing" if manifest.missing else ""
        raise TensorError(f"{folder} contains no preprocessed samples{missing}", hint=_HINT)
    return dataclasses.replace(manifest, song_contexts=has_song_contexts(manifest.paths[0]))


def has_song_contexts(path: Path) -> bool:
    """Whether the metadata in a ``.pt`` file says so. Reads the strings of its pickle without executing it."""
    try:
        with zipfile.ZipFile(path) as archive:
            [entry] = [each for each in archive.infolist() if each.filename.endswith("data.pkl")]
            data = archive.read(entry) if entry.file_size <= _MAX_PICKLE_BYTES else b""
        strings = [value for _, value, _ in pickletools.genops(data) if isinstance(value, str)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        return False  # reported when the sample is read
    return (PREPROCESS_MODE, SONG_CONTEXT_MODE) in itertools.pairwise(strings)


def has_samples(folder: Path) -> bool:
    """Whether ``read_manifest`` finds samples in ``folder``, in most cases without reading the manifest."""
    try:
        with os.scandir(folder) as entries:
            if any(entry.name.endswith(".pt") and not entry.name.startswith(".") for entry in entries):
                return True
        return bool(read_manifest(folder).paths)
    except (OSError, ValueError, TensorError):
        return False


def list_tensor_files(folder: Path) -> list[Path]:
    """Return the ``.pt`` files in ``folder`` sorted by name, without hidden and temporary files and subfolders."""
    return sorted(
        path for path in folder.glob("*.pt") if not path.name.startswith(".") and path.suffixes[-2:-1] != [".tmp"]
    )


def _read_content(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the manifest, or None and a warning; the warning is empty if there is no manifest."""
    if not exists(path):
        return None, ""
    fallback = "using all .pt files in the folder instead"
    try:
        content = read_json(path, error=TensorError, max_bytes=_MAX_BYTES)
    except TensorError as error:
        return None, f"{error}; {fallback}"
    if not isinstance(content, dict) or not isinstance(content.get("samples"), list):
        return None, f"{path} has no list of samples; {fallback}"
    return content, ""


def _from_content(folder: Path, content: dict[str, Any]) -> Manifest:
    paths: dict[Path, None] = {}  # an ordered set
    missing: list[str] = []
    for entry in content["samples"]:
        text = entry.get("path") or entry.get("filename") if isinstance(entry, dict) else entry
        if not isinstance(text, str) or not text:
            missing.append(repr(entry)[:80])
        elif (path := _resolve(folder, text)) is None:
            missing.append(text)
        else:
            paths[path] = None
    return Manifest(
        folder,
        list(paths),
        version=content["version"] if isinstance(content.get("version"), int) else 1,
        metadata=_dict(content.get("metadata")),
        preprocessing=_dict(content.get("preprocessing")),
        missing=missing,
        problems=[f"{text} is listed in {folder / NAME}, but does not exist" for text in missing],
        sizes=_sizes(content.get("sample_details")),
    )


def _sizes(details: Any) -> Sizes | None:
    """The sizes in the entries of ``SampleDetails``, None if they are incomplete."""
    try:
        shapes = [(each["shapes"], _DTYPE_BYTES[each["dtype"]]) for each in details]
        return Sizes(
            longest=max(int(shape["target_latents"][0]) for shape, _ in shapes),
            tokens=max(int(shape["encoder_hidden_states"][0]) for shape, _ in shapes),
            songs=len(shapes),
            num_bytes=sum(
                size * prod(map(int, shape[key]))
                for shape, size in shapes
                for key in ("target_latents", "encoder_hidden_states")
            ),
        )
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def _resolve(folder: Path, text: str) -> Path | None:
    """The file of an entry relative to ``folder``, or the one of the same name in ``folder``; None if there is none.

    Older manifests contain absolute paths or paths relative to the working directory, with either path separator.
    Symbolic links in the folder are followed.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if ".." in path.parts or "\0" in text or not path.name:
        raise TensorError(
            f"{folder / NAME} refers to a file outside its folder: {text!r}",
            hint="Do not use manifests from untrusted sources.",
        )
    absolute = path.is_absolute() or re.match(r"[A-Za-z]:", text)
    names: list[str | PurePosixPath] = [path.name] if absolute else [path, path.name]
    return next((file for name in names if is_file(file := folder / name)), None)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
