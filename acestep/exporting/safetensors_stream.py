"""Safetensors files read and written one tensor at a time, so that no model has to fit into memory.

Format: 8 bytes little-endian header length, a JSON header padded to a multiple of 8, the data without gaps
(github.com/huggingface/safetensors, README). The library's own writer wants all tensors at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch
from torch import Tensor

from acestep.core.errors import CheckpointError
from acestep.models.safetensors_header import TensorInfo

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CHUNK = 4 * 2**20  # bytes


def read_tensor(stored: TensorInfo) -> Tensor:
    """One weight in memory of its own, in the type it is stored in. Raises CheckpointError for an unknown type."""
    data = bytearray(stored.end - stored.start)
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        file.readinto(data)
    return torch.frombuffer(data, dtype=dtype_of(stored)).reshape(stored.shape)


def dtype_of(stored: TensorInfo) -> torch.dtype:
    """Raises CheckpointError for a type that PyTorch does not have."""
    if stored.dtype not in DTYPES:
        raise CheckpointError(
            f"{stored.file}: {stored.name} is stored as {stored.dtype}", hint="Use the checkpoint in bf16 or fp32."
        )
    return DTYPES[stored.dtype]


class TensorWriter:
    """A safetensors file whose tensors arrive one by one, in the order of ``layout``; a context manager.

    The header is written first, so names, types and shapes are fixed from the start.
    """

    def __init__(self, path: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        """``layout``: name -> type and shape. Wider types go first: each tensor then lies aligned in the file."""
        order = sorted(layout, key=lambda name: -layout[name][0].itemsize)  # stable
        self._left = {name: layout[name] for name in order}
        self._path = path
        self._file: BinaryIO

    @property
    def names(self) -> list[str]:
        """The tensors still to be written, in order."""
        return list(self._left)

    def __enter__(self) -> Self:
        entries, position = {}, 0
        for name, (dtype, shape) in self._left.items():
            end = position + math.prod(shape) * dtype.itemsize
            kind = next(key for key, value in DTYPES.items() if value is dtype)
            entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [position, end]}
            position = end
        text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        assert kind is not None or not self._left, f"{self._path} still lacks {self.names[:3]}"

    def write(self, name: str, tensor: Tensor) -> None:
        """The next tensor, of the type and shape that were announced."""
        assert (name, (tensor.dtype, tuple(tensor.shape))) == next(iter(self._left.items())), name
        self._file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        del self._left[name]

    def copy(self, name: str, stored: TensorInfo) -> None:
        """The next tensor, byte for byte from another file."""
        assert (name, (dtype_of(stored), stored.shape)) == next(iter(self._left.items())), name
        left = stored.end - stored.start
        with stored.file.open("rb") as source:
            source.seek(stored.start)
            while left:
                data = source.read(min(_CHUNK, left))
                if not data:
                    raise CheckpointError(f"{stored.file} is cut short at {stored.name}", hint="Get the file again.")
                self._file.write(data)
                left -= len(data)
        del self._left[name]
