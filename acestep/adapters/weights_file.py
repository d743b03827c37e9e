"""Reading adapter files that anyone may have written: header, dtypes and numbers are checked before values are used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.core.errors import AdapterError, CheckpointError
from acestep.core.untrusted import shorten
from acestep.models.safetensors_data import read_tensor
from acestep.models.safetensors_header import TensorInfo, read_safetensors_header, read_safetensors_metadata

MAX_ALPHA = 100_000.0

_HINT = "Download or copy it again."
_FLOATS = ("F64", "F32", "F16", "BF16")
_SCALARS = (*_FLOATS, "I64", "I32", "I16", "I8", "U8")  # some programs save alpha as an integer
_PLAIN_NAME = re.compile(r"[\w.-]+")


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        AdapterError: not a safetensors file, an empty tensor, or a dtype that adapters do not have.
    """
    try:
        header = read_safetensors_header(file)
        for info in header.values():
            _check_info(file, info)
        metadata = read_safetensors_metadata(file)
        return {name: read_tensor(header[name]) for name in sorted(header)}, metadata
    except CheckpointError as problem:
        why = str(problem).removeprefix(f"{file} ")
        raise AdapterError(f"{file} cannot be read as safetensors: it {why}", hint=_HINT) from None
    except OSError as problem:
        raise AdapterError(f"{file} cannot be read as safetensors: {shorten(problem, 300)}", hint=_HINT) from None


def require_finite_values(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise AdapterError if a tensor holds NaN or infinite values."""
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{file} holds NaN or infinite values in {key}", hint="Use an earlier checkpoint.")


def require_alpha(where: Path, name: str, value: object) -> float:
    """The alpha ``value`` of a settings file or a tensor. ``where`` and ``name`` are for the message.

    Raises:
        AdapterError: not a number, or not in (0, ``MAX_ALPHA``].
    """
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else f"a tensor of shape {list(value.shape)}"
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_ALPHA:
        raise AdapterError(
            f"{where} has no valid {shorten(name)}, so the scale is unknown: "
            f"it is {shorten(value)}, expected a number above 0 and up to {MAX_ALPHA:,.0f}",
            hint=_HINT,
        )
    return float(value)


def plain_patterns(where: Path, name: str, patterns: Mapping[str, Any]) -> dict[str, float]:
    """Module name or suffix -> alpha, from PEFT's ``alpha_pattern``.

    PEFT uses the keys as regular expressions. Those of all known programs are module names, plain or escaped. Others
    are rejected: matching them can take forever.

    Raises:
        AdapterError: a key is not a module name, or its alpha is invalid.
    """
    found: dict[str, float] = {}
    for key, value in patterns.items():
        plain = key.removeprefix("^").removesuffix("$").replace("\\.", ".").replace("\\_", "_")
        if not _PLAIN_NAME.fullmatch(plain):
            raise AdapterError(
                f"{where}: the key {shorten(key)!r} of {name} is not a module name",
                hint="Regular expressions are not supported. Use module names, such as layers.0.self_attn.q_proj.",
            )
        found[plain] = require_alpha(where, f"{name} for {key}", value)
    return found


def match_name(names: Iterable[str], module: str) -> str | None:
    """The first of ``names`` that equals ``module`` or is a suffix of it, as in PEFT."""
    return next((name for name in names if f".{module}".endswith(f".{name}")), None)


def _check_info(file: Path, info: TensorInfo) -> None:
    is_scalar = math.prod(info.shape) == 1
    if info.dtype not in (_SCALARS if is_scalar else _FLOATS):
        raise AdapterError(
            f"{file}: {info.name} has the unsupported dtype {shorten(info.dtype)}",
            hint="Use the adapter in bf16, fp16 or fp32.",
        )
    if 0 in info.shape:
        raise AdapterError(f"{file}: {info.name} is empty, its shape is {list(info.shape)}", hint=_HINT)
