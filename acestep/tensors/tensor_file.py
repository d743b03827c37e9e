"""Reading parts of a ``.pt`` file: a training step needs one crop of a song, not the whole file.

``torch.save`` stores a tensor in one uncompressed piece, so its rows are read from their place in the file. They are
read instead of memory-mapped: an error of the disk raises an exception instead of ending the process, and no file is
open between two reads, which would keep Windows from replacing it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from acestep.core.errors import TensorError
from acestep.core.untrusted import read_file, stat_file
from acestep.tensors.manifest import PREPROCESS_MODE, SONG_CONTEXT_MODE
from acestep.tensors.record import HINT, LATENT_CHANNELS, Crop, TensorRecord, decode_record

_DTYPES = {f"{dtype}": dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
_SCATTERED = -1  # offset of a tensor whose rows do not follow each other in the file

# The metadata that training needs.
_METADATA = ("filename", "model_checkpoint", "encoder_fingerprint", "custom_tag", "tag_position")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The place of a tensor [rows, columns] in its file, without padding."""

    offset: int
    rows: int
    columns: int
    dtype: str

    def __post_init__(self) -> None:
        if self.offset < _SCATTERED or self.rows < 1 or self.columns < 1 or self.dtype not in _DTYPES:
            raise ValueError(f"{self} is impossible")

    @property
    def torch_dtype(self) -> torch.dtype:
        return _DTYPES[self.dtype]

    @property
    def num_bytes(self) -> int:
        return self.rows * self.columns * self.torch_dtype.itemsize

    def read(self, file: BinaryIO, first: int, last: int) -> Tensor:
        """Rows ``first`` to ``last``. Raises EOFError if the file is too short."""
        row_bytes = self.columns * self.torch_dtype.itemsize
        data = bytearray((last - first) * row_bytes)
        file.seek(self.offset + first * row_bytes)
        if file.readinto(data) < len(data):  # type: ignore[attr-defined]  # a buffered file reads all there is
            raise EOFError
        return torch.frombuffer(data, dtype=self.torch_dtype).view(last - first, self.columns)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a tensor file, valid while its size and modification time are the same.

    Attributes:
        sha256: of the file.
        latents, context, condition: ``TensorRecord.target_latents``, ``context_latents``, ``encoder_hidden_states``.
        context_sha256: of the bytes of the context.
        song_context: the context holds the song itself, see ``training.silent_contexts``.
        metadata: the part of the metadata that training needs.
    """

    size: int
    mtime_ns: int
    sha256: str
    latents: StoredTensor
    context: StoredTensor
    condition: StoredTensor
    context_sha256: str
    song_context: bool = False
    metadata: dict[str, str | int | float | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        channels = (self.latents.columns, self.context.columns) == (LATENT_CHANNELS, 2 * LATENT_CHANNELS)
        if not channels or self.latents.rows != self.context.rows:
            raise ValueError("these are not the tensors of a sample")
        if any(tensor.offset + tensor.num_bytes > self.size for tensor in self._in_one_piece):
            raise ValueError("a tensor is larger than the file")

    @property
    def _in_one_piece(self) -> list[StoredTensor]:
        return [tensor for tensor in (self.latents, self.context, self.condition) if tensor.offset != _SCATTERED]


class TensorFile:
    """A sample whose tensors stay in its file."""

    def __init__(self, path: Path, facts: FileFacts, silence: Tensor | None = None) -> None:
        """``silence`` [at least T, 2C], in the dtype of the context, stands for the context of the file."""
        self.path, self.facts, self.silence = path, facts, silence

    @property
    def metadata(self) -> dict[str, Any]:
        return self.facts.metadata

    @property
    def num_frames(self) -> int:
        return self.facts.latents.rows

    @property
    def num_tokens(self) -> int:
        return self.facts.condition.rows

    @property
    def width(self) -> int:
        return self.facts.condition.columns

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors, without a shared silent context."""
        facts = self.facts
        context = facts.context.num_bytes if self.silence is None else 0
        return facts.latents.num_bytes + context + facts.condition.num_bytes

    def with_silence(self, silence: Tensor) -> TensorFile:
        """The sample with ``silence`` [at least T, 2C] as its context."""
        return TensorFile(self.path, self.facts, silence)

    def crop(self, start: int = 0, max_frames: int = 0) -> Crop:
        """Read the frames from ``start``, at most ``max_frames`` (0: all), and the condition. Raises TensorError."""
        last = min(start + max_frames, self.num_frames) if max_frames else self.num_frames
        try:
            return self._read(start, last)
        except EOFError:
            raise TensorError(f"{self.path} is truncated", hint=HINT) from None
        except OSError as error:
            raise TensorError(f"{self.path} cannot be read: {error.strerror or error}", hint=HINT) from None

    def _read(self, start: int, last: int) -> Crop:
        facts = self._require_unchanged()
        context = None if self.silence is None else self.silence[start:last]
        needed = [facts.latents, facts.condition, *([facts.context] if context is None else [])]
        if any(stored.offset == _SCATTERED for stored in needed):
            whole = decode_record(read_file(self.path), self.path.name).crop(start, last - start)
            return whole if context is None else whole._replace(context=context)
        with self.path.open("rb") as file:
            return Crop(
                facts.latents.read(file, start, last),
                facts.context.read(file, start, last) if context is None else context,
                facts.condition.read(file, 0, facts.condition.rows),
            )

    def _require_unchanged(self) -> FileFacts:
        """Raises TensorError if the file has other content than when it was first read, and OSError."""
        found = stat_file(self.path)
        if (found.st_size, found.st_mtime_ns) != (self.facts.size, self.facts.mtime_ns):
            facts = read_facts(self.path)
            if facts.sha256 != self.facts.sha256:
                raise TensorError(
                    f"{self.path} was changed while it is used for training",
                    hint="Restore the file to resume the run, or start a new run with the changed songs.",
                )
            self.facts = facts
        return self.facts


def read_facts(path: Path) -> FileFacts:
    """Read and check the whole file. Raises TensorError with the path or file name."""
    try:
        found, data = stat_file(path), read_file(path)
    except OSError as error:
        raise TensorError(f"{path} cannot be read: {error.strerror or error}", hint=HINT) from None
    return describe_file(data, decode_record(data, path.name), found.st_mtime_ns)


def describe_file(data: bytes, record: TensorRecord, mtime_ns: int) -> FileFacts:
    """The facts of a file with the content ``data``, of which ``record`` was decoded."""
    context = _bytes(record.context_latents)
    return FileFacts(
        size=len(data),
        mtime_ns=mtime_ns,
        sha256=hashlib.sha256(data).hexdigest(),
        latents=_locate(record.target_latents, data),
        context=_locate(record.context_latents, data),
        condition=_locate(record.encoder_hidden_states, data),
        context_sha256=hashlib.sha256(context).hexdigest(),
        song_context=_has_song_context(record),
        metadata={key: _scalar(record.metadata[key]) for key in _METADATA if key in record.metadata},
    )


def _locate(tensor: Tensor, data: bytes) -> StoredTensor:
    """The first place in the file with exactly the content of ``tensor``, so that reading it there gives the same."""
    rows, columns = tensor.shape
    offset = data.find(_bytes(tensor))
    return StoredTensor(offset if offset >= 0 else _SCATTERED, rows, columns, str(tensor.dtype))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _has_song_context(record: TensorRecord) -> bool:
    """Whether the context of ``record`` holds the song: according to its metadata, or because the latents are equal."""
    source = record.context_latents[:, :LATENT_CHANNELS]
    return record.metadata.get(PREPROCESS_MODE) == SONG_CONTEXT_MODE or torch.equal(source, record.target_latents)


def _scalar(value: Any) -> str | int | float | bool | None:
    return value if value is None or isinstance(value, str | int | float) else str(value)
