"""Saves a tree of tensors and plain values as safetensors and JSON, without pickle.

Optimizer states hold integers, floats, tuples and nested dictionaries with integer keys beside tensors; all of them
are restored exactly.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from acestep.core.errors import CheckpointError, TrainingError
from acestep.core.files import read_versioned, write_versioned
from acestep.core.untrusted import shorten
from acestep.models.safetensors_data import read_tensors

TENSORS, VALUES = "state.safetensors", "state.json"
_KIND, _VERSION = "training_state", 1
_OTHER = "Resume from another checkpoint."
_MARK = "$"  # marks an object that encodes what JSON has no type for


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` into an existing folder. Raises OSError, also when the disk is full."""
    tensors: dict[str, Tensor] = {}
    values = _encode(state, "", tensors)
    try:
        save_file(tensors, folder / TENSORS)
    except SafetensorError as problem:  # carries the OS error number only in its text
        number = re.search(r"os error (\d+)", str(problem))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, str(problem), str(folder / TENSORS), code) from None  # on Windows, the last one counts
    write_versioned(folder / VALUES, _KIND, _VERSION, {"state": values})


def read_values(folder: Path) -> dict[str, Any]:
    """The state with tensor names in place of tensors. Raises TrainingError naming the file."""
    state = read_versioned(folder / VALUES, _KIND, _VERSION, error=TrainingError).get("state")
    if not isinstance(state, dict):
        raise TrainingError(f"{folder / VALUES} holds no training state", hint=_OTHER)
    return state


def read_state(folder: Path) -> dict[str, Any]:
    """Read what ``write_state`` wrote; tensors are on the CPU. Raises TrainingError naming the file."""
    values = read_values(folder)
    try:
        tensors = read_tensors(folder / TENSORS)
        with damaged_state(folder):
            state: dict[str, Any] = _decode(values, tensors)
    except (CheckpointError, OSError) as problem:
        raise TrainingError(f"the training state in {folder} is damaged: {problem}", hint=_OTHER) from None
    return state


@contextmanager
def damaged_state(folder: Path) -> Iterator[None]:
    """Convert the errors of a block that restores the state in ``folder`` to TrainingError: it has other content than
    ``write_state`` got."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as problem:
        what = f"{type(problem).__name__} {shorten(problem, 300)}"
        raise TrainingError(f"the training state in {folder} is damaged: {what}", hint=_OTHER) from problem


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()  # a copy: safetensors refuses shared memory
        return {_MARK: "tensor", "name": path}
    if isinstance(value, dict):
        items = [[key, _encode(item, f"{path}.{key}".lstrip("."), tensors)] for key, item in value.items()]
        if all(isinstance(key, str) for key in value) and _MARK not in value:
            return dict(items)
        return {_MARK: "dict", "items": items}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{path}.{i}".lstrip("."), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {_MARK: "tuple", "items": items}
    if isinstance(value, float) and not math.isfinite(value):
        return {_MARK: "float", "value": str(value)}
    assert value is None or isinstance(value, bool | int | float | str), f"{path} is a {type(value).__name__}"
    return value


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value.get(_MARK):
        case "tensor":
            return tensors[value["name"]]
        case "dict":
            return {key: _decode(item, tensors) for key, item in value["items"]}
        case "tuple":
            return tuple(_decode(item, tensors) for item in value["items"])
        case "float":
            return float(value["value"])
    return {key: _decode(item, tensors) for key, item in value.items()}
