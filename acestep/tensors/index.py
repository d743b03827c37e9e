"""``index.json``: the facts about each tensor file, so that a run starts without reading the files (docs/FORMATS.md).

An entry is valid while size and modification time of its file are the same; all other files are read, checked and
hashed. The index is a cache: it may be deleted, and a folder that cannot be written is read at each start.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from acestep.core.errors import StorageError
from acestep.core.files import write_bytes
from acestep.core.untrusted import read_file, stat_file
from acestep.tensors.tensor_file import FileFacts, read_facts

NAME = "index.json"
_KIND: Literal["tensor_index"] = "tensor_index"
_MAX_BYTES = 512 * 2**20
_SETTLED_NS = 2 * 10**9  # FAT stores times in steps of 2 s: a younger file may change without a new time


@dataclass(frozen=True, slots=True)
class _Content:
    kind: Literal["tensor_index"]
    version: Literal[1]
    files: dict[str, FileFacts]


_CONTENT = TypeAdapter(_Content)


@dataclass(slots=True)
class TensorIndex:
    """The index of the tensor files in ``folder``; names are paths relative to it, with forward slashes."""

    folder: Path
    files: dict[str, FileFacts] = field(default_factory=dict)
    _changed: bool = False

    @classmethod
    def read(cls, folder: Path) -> TensorIndex:
        """The index that was written, empty if there is none or it is damaged."""
        try:
            content = _CONTENT.validate_json(read_file(folder / NAME, max_bytes=_MAX_BYTES))
        except (OSError, ValidationError):
            return cls(folder)
        return cls(folder, content.files)

    def facts(self, name: str) -> FileFacts:
        """The facts about a file, which is read if it is new or has changed. Raises TensorError."""
        path, known = self.folder / name, self.files.get(name)
        try:
            found = stat_file(path)
        except OSError:
            known = None  # ``read_facts`` reports it
        if known is None or (found.st_size, found.st_mtime_ns) != (known.size, known.mtime_ns):
            self.files.pop(name, None)
            self.put(name, known := read_facts(path))
        return known

    def put(self, name: str, facts: FileFacts) -> None:
        self.files[name] = facts
        self._changed = True

    def write(self) -> str:
        """Write the index if it has changed. Returns why it could not be written, "" if it could."""
        settled = time.time_ns() - _SETTLED_NS
        files = {name: facts for name, facts in self.files.items() if facts.mtime_ns < settled}
        if not self._changed or not files:
            return ""
        try:
            write_bytes(self.folder / NAME, _CONTENT.dump_json(_Content(_KIND, 1, files)))
        except StorageError as problem:
            return str(problem)
        self._changed = False
        return ""
