"""What lies in safetensors files, from their headers alone: names, types, shapes, and whether a file is whole.

Format: 8 bytes little-endian header length, a JSON header, the data (github.com/huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.errors import CheckpointError
from acestep.core.files import read_json

_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_AGAIN = "Download the model again."
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor in a file: its name there, its type and shape, and the bytes it occupies."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: the file is missing, not a safetensors file, or shorter than its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= min(size, _MAX_HEADER) else None
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing", hint=_AGAIN) from None
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror}") from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: it has no safetensors header", hint=_AGAIN)
    header.pop("__metadata__", None)
    tensors = {name: _stored(path, name, entry, 8 + length) for name, entry in header.items()}
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.end):
        if tensor.end > size:
            raise CheckpointError(
                f"{path} is cut short at {tensor.name}: {size:,} bytes are there, this weight ends at {tensor.end:,}",
                hint=_AGAIN,
            )
    return tensors


def _stored(path: Path, name: str, entry: Any, offset: int) -> TensorInfo:
    try:
        start, end = (offset + int(position) for position in entry["data_offsets"])
        tensor = TensorInfo(path, name, str(entry["dtype"]), tuple(map(int, entry["shape"])), start, end)
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path} is damaged: the header entry of {name} is malformed", hint=_AGAIN) from None
    if end - start != math.prod(tensor.shape) * _BYTES.get(tensor.dtype, 1):
        raise CheckpointError(
            f"{path} is damaged: {name} has {end - start:,} bytes for shape {list(tensor.shape)}", hint=_AGAIN
        )
    return tensor


def read_tensor_infos(folder: Path, stem: str) -> dict[str, TensorInfo]:
    """All tensors of ``stem.safetensors`` in ``folder``, or of the shards that ``stem.safetensors.index.json`` lists.

    Raises:
        CheckpointError: naming the missing file or weight.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return read_safetensors_header(folder / f"{stem}.safetensors")
    content = read_json(index, error=CheckpointError, hint=_AGAIN)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} lists no weights", hint=_AGAIN)
    names = sorted({str(name) for name in places.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{index} points outside its folder: {outside[0]}", hint=_AGAIN)
    shards = {name: read_safetensors_header(folder / name) for name in names}
    for key, name in places.items():
        if key not in shards[name]:
            raise CheckpointError(f"{folder / name} lacks {key}, which {index.name} promises", hint=_AGAIN)
    return {key: tensor for shard in shards.values() for key, tensor in shard.items()}


def check_shapes(where: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, TensorInfo]) -> None:
    """Raises CheckpointError naming the first weights that are missing, unknown or of another shape."""
    if missing := [key for key in expected if key not in found]:
        raise CheckpointError(f"{where} lacks {_some(missing)}", hint=_AGAIN)
    if unknown := [key for key in found if key not in expected]:
        raise CheckpointError(
            f"{where} holds unknown weights: {_some(unknown)}",
            hint="Its config.json belongs to another model, or the file was changed by another program.",
        )
    for key, shape in expected.items():
        if found[key].shape != shape:
            raise CheckpointError(
                f"{where}: {key} has shape {list(found[key].shape)}, config.json says {list(shape)}",
                hint="config.json and the weights belong to different models. " + _AGAIN,
            )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
