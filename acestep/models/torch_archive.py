"""Reading ``.pt`` files that anyone may have written: no code runs, and no tensor is larger than its data."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from typing import Any

import torch
from torch import Tensor

# Exceptions of torch.load for truncated or altered files (found by fuzzing).
_LOAD_ERRORS = (
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    OverflowError,
    struct.error,
)
_MAX_ENTRIES = 10_000


class ArchiveError(Exception):
    """Why a file is not loaded, such as "is truncated". ``code`` is the function that it would call, if any."""

    def __init__(self, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.code = code


def load_archive(data: bytes) -> Any:
    """Load a ``torch.save`` archive on the CPU with ``weights_only=True``. Raises ArchiveError."""
    if not data.startswith(b"PK"):
        raise ArchiveError("is not a tensor file")
    _require_stored(data)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        function = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        if function is None:
            raise ArchiveError("is truncated or corrupted") from None
        raise ArchiveError("contains code", function[1]) from None
    except _LOAD_ERRORS:
        raise ArchiveError("is truncated or corrupted") from None


def unusual(tensor: Tensor) -> str:
    """Why a loaded tensor is rejected, "" if it is a dense tensor of real numbers that owns its data."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return "is sparse or nested"
    if tensor.device.type != "cpu":
        return f"has no data (device {tensor.device.type})"
    if tensor.is_quantized or tensor.is_complex() or (tensor.is_floating_point() and tensor.itemsize == 1):
        return f"has the unsupported dtype {tensor.dtype}"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return f"has shape {list(tensor.shape)}, but less data"
    return ""


def _require_stored(data: bytes) -> None:
    """Raise ArchiveError for compressed entries, which ``torch.save`` does not write: they may expand to any size."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, *_LOAD_ERRORS):
        raise ArchiveError("is truncated or corrupted") from None
    if len(entries) > _MAX_ENTRIES or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ArchiveError("is compressed, which torch.save does not do")
    if sum(entry.file_size for entry in entries) > len(data):
        raise ArchiveError("has entries that are larger than the file")
