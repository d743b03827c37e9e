"""``manifest.json``: which ``.pt`` files of a folder are the data set, and what they hold.

Written in version 2 of the existing trainer's format. Read from versions 1 and 2, from Side-Step's list of names,
and from a folder without any; entries are looked for inside the folder only, so a moved folder stays whole.
Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from acestep.core.errors import TensorError
from acestep.core.files import read_json, write_json

if TYPE_CHECKING:
    from acestep.tensors.record import TensorRecord

NAME = "manifest.json"
VERSION = 2

_HINT = "Preprocess a data set into this folder, or choose the folder that holds one."


@dataclass(frozen=True, slots=True)
class SampleDetails:
    """One file as the manifest describes it. ``path`` and ``filename`` are the file's base name."""

    path: str
    filename: str
    file_size_bytes: int
    shapes: dict[str, list[int]]
    dtype: str
    md5: str
    sample_metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The data set in a folder. ``version`` is 0 without a manifest; ``problems`` are to be shown as warnings."""

    folder: Path
    paths: list[Path]
    version: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def sample_details(name: str, record: TensorRecord, data: bytes) -> SampleDetails:
    """The entry of the file ``name``, from what was written to it or read from it: no second reading."""
    tensors = record.tensors()
    return SampleDetails(
        path=name,
        filename=name,
        file_size_bytes=len(data),
        shapes={key: list(tensor.shape) for key, tensor in tensors.items()},
        dtype=str(record.target_latents.dtype),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        sample_metadata=dict(sorted(record.metadata.items())),  # as it is read back: the same, whoever writes it
    )


def write_manifest(
    folder: Path, details: Iterable[SampleDetails], *, metadata: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> None:
    """Replace the manifest of ``folder``.

    Args:
        details: the files of the data set, in its order.
        metadata: the data set's own (name, tag, tag position, genre ratio, ...).
        preprocessing: the settings that made the files.

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
    """The data set in ``folder``; without a readable manifest, every ``.pt`` file there.

    Raises:
        TensorError: there is no tensor at all, or an entry points out of the folder.
    """
    if not folder.is_dir():
        raise TensorError(f"{folder} is not a folder", hint=_HINT)
    content, problem = _content(folder / NAME)
    if content is None:
        manifest = Manifest(folder, list_tensor_files(folder), problems=[problem] if problem else [])
    else:
        manifest = _listed(folder, content)
    if not manifest.paths:
        lost = f": the {len(manifest.missing)} songs of its manifest are missing" if manifest.missing else ""
        raise TensorError(f"{folder} holds no preprocessed song{lost}", hint=_HINT)
    return manifest


def list_tensor_files(folder: Path) -> list[Path]:
    """Every ``.pt`` file directly in ``folder``, listed or not, by name; temporary files are left out."""
    return sorted(
        path for path in folder.glob("*.pt") if not path.name.startswith(".") and path.suffixes[-2:-1] != [".tmp"]
    )


def _content(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The manifest, or None and why it cannot be used (nothing to say when there is none)."""
    if not path.exists():
        return None, ""
    instead = "every .pt file of the folder is used instead"
    try:
        content = read_json(path, error=TensorError)
    except TensorError as error:
        return None, f"{error}; {instead}"
    if not isinstance(content, dict) or not isinstance(content.get("samples"), list):
        return None, f"{path} lists no samples; {instead}"
    return content, ""


def _listed(folder: Path, content: dict[str, Any]) -> Manifest:
    paths: dict[Path, None] = {}  # a set that keeps its order
    missing: list[str] = []
    for entry in content["samples"]:
        text = entry.get("path") or entry.get("filename") if isinstance(entry, dict) else entry
        if not isinstance(text, str) or not text:
            missing.append(repr(entry)[:80])
        elif (path := _inside(folder, text)).is_file():
            paths[path] = None
        else:
            missing.append(text)
    return Manifest(
        folder,
        list(paths),
        version=content["version"] if isinstance(content.get("version"), int) else 1,
        metadata=_dict(content.get("metadata")),
        preprocessing=_dict(content.get("preprocessing")),
        missing=missing,
        problems=[f"{text}: listed in {folder / NAME}, but not there" for text in missing],
    )


def _inside(folder: Path, text: str) -> Path:
    """Where an entry is: as it stands if that is in ``folder``, else the file of that name in ``folder``.

    Older manifests hold absolute paths, or paths relative to where the program was started, in either system's
    spelling. Only spelling is checked: a link that the user put into the folder may lead anywhere.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if ".." in path.parts or "\0" in text or not path.name:
        raise TensorError(
            f"{folder / NAME} points out of its folder: {text!r}", hint="Do not use a manifest that you do not trust."
        )
    absolute = path.is_absolute() or re.match(r"[A-Za-z]:", text)
    listed = folder / path.name if absolute else folder / path
    return listed if listed.exists() else folder / path.name


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
