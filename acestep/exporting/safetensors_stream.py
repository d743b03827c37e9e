"""Write safetensors files one tensor at a time, so that a model need not fit into memory.

Format: 8 bytes little-endian header length, a JSON header padded to a multiple of 8, the data without gaps
(https://github.com/huggingface/safetensors#format). The writer of the library takes all tensors at once.
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
from acestep.models.safetensors_data import DTYPES, dtype_of
from acestep.models.safetensors_header import TensorInfo

_CHUNK_BYTES = 4 * 2**20


class TensorWriter:
    """Context manager that writes the tensors of a safetensors file one by one, in the order of ``names``.

    The header is written first, so names, dtypes and shapes are fixed from the start.
    """

    def __init__(self, path: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        """Fix the ``layout``: name -> dtype and shape. Wider dtypes come first, so that each tensor is aligned."""
        order = sorted(layout, key=lambda name: -layout[name][0].itemsize)  # stable
        self._remaining = {name: layout[name] for name in order}
        self._path = path
        self._file: BinaryIO

    @property
    def names(self) -> list[str]:
        """Names of the remaining tensors, in order."""
        return list(self._remaining)

    def __enter__(self) -> Self:
        entries, position = {}, 0
        for name, (dtype, shape) in self._remaining.items():
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
        assert kind is not None or not self._remaining, f"{self._path} lacks the tensors {self.names[:3]}"

    def write(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor. Its dtype and shape must match the layout."""
        assert (name, (tensor.dtype, tuple(tensor.shape))) == next(iter(self._remaining.items())), name
        self._file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        del self._remaining[name]

    def copy(self, name: str, stored: TensorInfo) -> None:
        """Copy the next tensor from another file unchanged. Raises CheckpointError if that file is truncated."""
        assert (name, (dtype_of(stored), stored.shape)) == next(iter(self._remaining.items())), name
        left = stored.end - stored.start
        with stored.file.open("rb") as source:
            source.seek(stored.start)
            while left:
                data = source.read(min(_CHUNK_BYTES, left))
                if not data:
                    raise CheckpointError(
                        f"{stored.file} is truncated at {stored.name}", hint="Download the file again."
                    )
                self._file.write(data)
                left -= len(data)
        del self._remaining[name]
