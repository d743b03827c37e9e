"""Read and check the headers of safetensors files without loading tensors.

Format (github.com/huggingface/safetensors, README): the header length as 8 little-endian bytes, a JSON header, and
the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.errors import CheckpointError
from acestep.core.files import read_json
from acestep.core.untrusted import is_file, parse_json, require_regular_file, shorten

_MAX_HEADER_BYTES = 16 * 2**20  # 100 times that of the largest model; the library allows 100 MB
_MAX_NAME, _MAX_DIMENSIONS = 500, 8
_HINT = "Download the model again."
_DTYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_DTYPE_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "C64": 8}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Header entry of one tensor. ``start`` and ``end`` are byte positions in ``file``."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Return the header entries of one file by tensor name.

    Raises:
        CheckpointError: the file is missing, is not a safetensors file, or is truncated.
    """
    header, start, size = _read_header(path)
    header.pop("__metadata__", None)
    tensors = {name: _tensor_info(path, name, entry, start) for name, entry in header.items()}
    _require_layout(path, sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)), start, size)
    return tensors


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of one file, empty if it has none. Raises CheckpointError as ``read_safetensors_header``."""
    metadata = _read_header(path)[0].get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} is corrupted: its metadata is not text", hint=_HINT)
    return metadata


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The JSON header, the byte position of the data, and the size of the file. Raises CheckpointError."""
    try:
        size = require_regular_file(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = file.read(length) if length <= min(size - 8, _MAX_HEADER_BYTES) else b""
        header = parse_json(content)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing", hint=_HINT) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        why = f": {error}" if content else ""
        raise CheckpointError(f"{path} is corrupted: no valid safetensors header{why}", hint=_HINT) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is corrupted: no valid safetensors header", hint=_HINT)
    return header, 8 + length, size


def _require_layout(path: Path, tensors: list[TensorInfo], position: int, size: int) -> None:
    """Raise CheckpointError unless the data of ``tensors`` fills the file from ``position`` to ``size``, each byte
    once."""
    for tensor in tensors:
        if tensor.end > size:
            raise CheckpointError(
                f"{path} is truncated at {tensor.name}: {size:,} bytes, but this tensor ends at byte {tensor.end:,}",
                hint=_HINT,
            )
        if tensor.start != position:
            what = "overlaps the tensor before it" if tensor.start < position else "does not follow the data before it"
            raise CheckpointError(f"{path} is corrupted: {tensor.name} {what}", hint=_HINT)
        position = tensor.end
    if position != size:
        raise CheckpointError(f"{path} is corrupted: {size - position:,} bytes follow its tensors", hint=_HINT)


def _tensor_info(path: Path, name: str, entry: Any, offset: int) -> TensorInfo:
    try:
        (start, end), shape = entry["data_offsets"], entry["shape"]
        sizes = [start, end, *shape]
        if len(name) > _MAX_NAME or len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in sizes):
            raise ValueError
        tensor = TensorInfo(path, name, str(entry["dtype"]), tuple(shape), offset + start, offset + end)
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path} is corrupted: invalid header entry of {shorten(name)}", hint=_HINT) from None
    if end - start != math.prod(tensor.shape) * _DTYPE_BYTES.get(tensor.dtype, 1):
        raise CheckpointError(
            f"{path} is corrupted: {name} has {end - start:,} bytes, which does not match shape {list(tensor.shape)}",
            hint=_HINT,
        )
    return tensor


def read_tensor_infos(folder: Path, stem: str) -> dict[str, TensorInfo]:
    """Return the header entries of ``STEM.safetensors`` in ``folder``, or of the shards in its index, by tensor name.

    Args:
        stem: file name without suffix, such as ``model`` or ``diffusion_pytorch_model``.

    Raises:
        CheckpointError: a missing or corrupted file, or a weight that is missing in its shard.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not is_file(index):
        return read_safetensors_header(folder / f"{stem}.safetensors")
    content = read_json(index, error=CheckpointError, hint=_HINT)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map", hint=_HINT)
    names = sorted({str(name) for name in weight_map.values()})
    if outside := [name for name in names if Path(name).name != name or "\0" in name]:
        raise CheckpointError(f"{index} refers to a file outside its folder: {shorten(outside[0])}", hint=_HINT)
    shards = {name: read_safetensors_header(folder / name) for name in names}
    for key, name in weight_map.items():
        if key not in shards[str(name)]:
            raise CheckpointError(
                f"{folder / str(name)} is missing the weight {shorten(key)}, which {index.name} lists", hint=_HINT
            )
    return {key: tensor for shard in shards.values() for key, tensor in shard.items()}


def check_shapes(folder: Path, expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, TensorInfo]) -> None:
    """Compare weights with their expected names and shapes. ``folder`` is for the message.

    Raises:
        CheckpointError: missing or unexpected weights, or another shape.
    """
    if missing := [key for key in expected if key not in actual]:
        raise CheckpointError(f"{folder} is missing weights: {_first(missing)}", hint=_HINT)
    if unexpected := [key for key in actual if key not in expected]:
        raise CheckpointError(
            f"{folder} has unexpected weights: {_first(unexpected)}",
            hint="Its config.json belongs to another model, or another program changed the weights.",
        )
    for key, shape in expected.items():
        if actual[key].shape != shape:
            raise CheckpointError(
                f"{folder}: {key} has shape {list(actual[key].shape)}, expected {list(shape)} from config.json",
                hint="config.json and the weights belong to different models. " + _HINT,
            )


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
