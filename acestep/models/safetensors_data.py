"""Read the tensors of safetensors files without mapping the files into memory.

The safetensors library maps a file, and its tensors keep it mapped. On Windows such a file can be neither replaced nor
removed: a resumed run could not remove the checkpoint that it started from. The alignment of mapped tensors also
changes the last bits of results.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from acestep.core.errors import CheckpointError
from acestep.models.safetensors_header import TensorInfo, read_safetensors_header

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


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, in the order of their names, on the CPU and in their stored dtypes.

    Raises:
        CheckpointError: missing or malformed, or a dtype that PyTorch does not have.
        OSError: the file cannot be read.
    """
    header = read_safetensors_header(file)
    return {name: read_tensor(header[name]) for name in sorted(header)}


def read_tensor(stored: TensorInfo) -> Tensor:
    """One tensor in its stored dtype. Raises CheckpointError, OSError as ``read_tensors``."""
    tensor = torch.empty(stored.shape, dtype=dtype_of(stored))
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        num_bytes = file.readinto(tensor.flatten().view(torch.uint8).numpy().data)
    if num_bytes != stored.end - stored.start:
        raise CheckpointError(f"{stored.file} is truncated at {stored.name}", hint="Download the file again.")
    return tensor


def dtype_of(stored: TensorInfo) -> torch.dtype:
    """The torch dtype. Raises CheckpointError for a dtype that PyTorch does not have."""
    if stored.dtype not in DTYPES:
        raise CheckpointError(
            f"{stored.file}: {stored.name} has the unsupported dtype {stored.dtype}",
            hint="Use the checkpoint in bf16 or fp32.",
        )
    return DTYPES[stored.dtype]
