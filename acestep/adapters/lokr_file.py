"""LoKr files: LyCORIS tensors under original names, with the settings that its loaders need (docs/FORMATS.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.adapters.base import StoredAdapter, parse_config, split_key, write_tensors
from acestep.adapters.configs import LoKRConfig
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.part_shapes import check_parts, update_shape
from acestep.adapters.targets import module_from_underscores
from acestep.adapters.weights_file import MAX_ALPHA, require_alpha
from acestep.core.errors import AdapterError
from acestep.core.files import read_json, write_json
from acestep.core.untrusted import is_file, parse_json, shorten

WEIGHTS, CONFIG = "lokr_weights.safetensors", "lokr_config.json"
PREFIX = "lycoris_"
PARTS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
MAGNITUDE = "dora_scale"
_SCALE_RTOL = 0.01  # relative tolerance for scales that were rounded to bf16


def read_lokr(file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str]) -> StoredAdapter:
    """Factors with the scale folded in, config and metadata of a file. Raises AdapterError."""
    settings = _settings(file, file_metadata)
    weights: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in tensors.items():
        flat, part = split_key(key)
        module = module_from_underscores(flat.removeprefix(PREFIX))
        if not key.startswith(PREFIX) or part not in (*PARTS, MAGNITUDE, "alpha"):
            raise AdapterError(
                f"{file} holds {shorten(key, 200)}, which is not part of a LoKr", hint="Only plain LoKr is supported."
            )
        if part == "alpha":
            alphas[module] = require_alpha(file, key, tensor)
        else:
            weights[f"{module}.{part}"] = tensor.float()
    metadata = AdapterMetadata.from_file_metadata(_facts(file_metadata)).with_tag(settings)
    decomposed = bool(settings.get("weight_decompose")) or any(key.endswith(f".{MAGNITUDE}") for key in weights)
    recorded = {**(metadata.config or settings), "weight_decompose": decomposed}
    stored = StoredAdapter(file, "lokr", parse_config(file, LoKRConfig, recorded), weights, metadata)
    for module, parts in stored.modules.items():
        check_parts(file, module, parts)
        if decomposed:
            _require_magnitude(file, module, parts)
        scale = _scale(file, module, parts, alphas.get(module), settings)
        if scale != 1.0:
            weights[f"{module}.{scaled_part(parts)}"] *= scale
    return stored


def write_lokr(
    folder: Path, weights: Mapping[str, Tensor], config: LoKRConfig, metadata: AdapterMetadata, dtype: torch.dtype
) -> None:
    """Write both files of folded ``weights``. Each alpha equals its dim, so that every loader scales by 1.

    Magnitudes stay fp32: they scale whole rows, so rounding them would change a weight as much as training does.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        module, part = split_key(name)
        flat = PREFIX + module.replace(".", "_")
        tensors[f"{flat}.{part}"] = value if part == MAGNITUDE else value.to(dtype)
        tensors[f"{flat}.alpha"] = torch.tensor(float(config.linear_dim))  # fp32: bf16 cannot hold 10000
    settings = {
        "linear_dim": config.linear_dim,
        "linear_alpha": config.linear_dim,
        "factor": config.factor,
        "decompose_both": config.decompose_both,
        "use_tucker": config.use_tucker,
        "dropout": 0.0,
        **{name: True for name in ("weight_decompose", "unbalanced_factorization") if getattr(config, name)},
        "target_modules": sorted({split_key(name)[0].rpartition(".")[2] for name in weights}),
        **metadata.tag(),
    }
    file_metadata = {
        "algo": "lokr",
        "format": "lycoris",
        "adapter_type": "lokr",
        "lokr_config": json.dumps(settings),
        "run_metadata": json.dumps(metadata.to_file_metadata()),
    }
    write_tensors(folder / WEIGHTS, tensors, file_metadata)
    write_json(folder / CONFIG, {"adapter_type": "lokr", "algo": "lokr", **settings})


def factors(parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """w1 [a, b] and w2 [c, d], or [c, d, k] or [c, d * k] for a convolution; the update is their Kronecker product."""
    w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        return w1, parts["lokr_w2"]
    if "lokr_t2" in parts:
        tucker = (parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
        return w1, torch.einsum("i j ..., i p, j r -> p r ...", *tucker)
    return w1, parts["lokr_w2_a"] @ parts["lokr_w2_b"]


def product(parts: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """The Kronecker product of both factors in the ``shape`` of the weight: [out, in] or [out, in, kernel]."""
    w1, w2 = factors(parts)
    return torch.kron(w1[(..., *[None] * (w2.dim() - 2))], w2).reshape(shape)


def scaled_part(parts: Mapping[str, Any]) -> str:
    """The part that the scale is folded into, unless both factors are full matrices."""
    return "lokr_w2_b" if "lokr_w2_b" in parts else "lokr_w1_b"


def _settings(file: Path, file_metadata: Mapping[str, str]) -> dict[str, Any]:
    """The LyCORIS settings of the file, from its metadata or the JSON file beside it. Raises AdapterError."""
    settings: Any = None
    if "lokr_config" in file_metadata:
        settings = json_object(file_metadata["lokr_config"])
    elif is_file(beside := file.parent / CONFIG):
        settings = read_json(beside, error=AdapterError)
    numbers = [settings.get(name) for name in ("linear_dim", "linear_alpha")] if isinstance(settings, dict) else [None]
    if not all(_is_dim(number) for number in numbers):
        raise AdapterError(
            f"{file} has no valid linear_dim and linear_alpha, so its scale is unknown",
            hint=f"Keep {CONFIG} beside it, or download the file again.",
        )
    return dict(settings)


def _is_dim(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_ALPHA


def _facts(file_metadata: Mapping[str, str]) -> dict[str, str]:
    """The adapter metadata within the metadata of the file; empty in files of other trainers."""
    facts = json_object(file_metadata.get("run_metadata", "{}"))
    return {key: value for key, value in facts.items() if isinstance(value, str)}


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; empty if ``text`` is anything else."""
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _require_magnitude(file: Path, module: str, parts: Mapping[str, Tensor]) -> None:
    """Raise AdapterError unless there is one magnitude per output [out, 1], or per input [1, in] as in LyCORIS 2."""
    out, width = update_shape(parts)
    shape = tuple(parts[MAGNITUDE].shape) if MAGNITUDE in parts else ()
    per_output = shape[:1] == (out,) and set(shape[1:]) == {1}
    per_input = shape[:1] == (1,) and set(shape[2:]) <= {1} and width % max(shape[1], 1) == 0
    if not (per_output or per_input):
        found = f"{MAGNITUDE} of shape {list(shape)}" if shape else f"no {MAGNITUDE}"
        raise AdapterError(
            f"{file} is a LoKr with weight decomposition, but {module} has {found} for {out} outputs",
            hint="Download or copy it again.",
        )


def _scale(
    file: Path, module: str, parts: Mapping[str, Tensor], alpha: float | None, settings: Mapping[str, Any]
) -> float:
    """alpha / dim, the scale in LyCORIS training. Raises AdapterError if the settings do not match the weights.

    With rs_lora, LyCORIS stores alpha * sqrt(dim); the programs that record rs_lora but do not pass it on store alpha.
    """
    if "lokr_w1" in parts and "lokr_w2" in parts:
        return 1.0
    dim = parts["lokr_t2"].shape[0] if "lokr_t2" in parts else parts[scaled_part(parts)].shape[0]
    rules = [math.sqrt(dim), float(dim)] if settings.get("rs_lora") else [float(dim)]
    wanted = [settings["linear_alpha"] / divisor for divisor in rules]
    stored = wanted[0] if alpha is None else alpha / dim
    nearest = min(wanted, key=lambda scale: abs(scale - stored))
    if settings["linear_dim"] != dim or abs(nearest - stored) > _SCALE_RTOL * abs(stored):
        raise AdapterError(
            f"{file}: {module} has dim {dim} and scale {stored:g}, but its settings give "
            f"dim {settings['linear_dim']} and scale {nearest:g}",
            hint="The settings belong to another file. Download or copy both again.",
        )
    return float(nearest)
