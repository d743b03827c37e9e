"""Files of LoRA and DoRA: PEFT's two files with original names and the scale folded into lora_B (docs/FORMATS.md).

This module also holds the functions that all kinds with files in PEFT's format share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.adapters.base import StoredAdapter, modules_of, parse_config, split_key, to_file_dtype, write_tensors
from acestep.adapters.configs import ADAPTERS
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.part_shapes import MAX_RANK, check_parts
from acestep.adapters.targets import CONVOLUTIONS, shortest_names
from acestep.adapters.weights_file import match_name, plain_patterns, require_alpha
from acestep.core.errors import AdapterError
from acestep.core.files import read_json, write_json
from acestep.core.untrusted import is_file, shorten

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
PEFT_TYPES = {"lora": "LORA", "dora": "LORA", "loha": "LOHA"}
_MAGNITUDE = "lora_magnitude_vector"
_PARTS = {"lora": {"lora_A": 2, "lora_B": 2}, "dora": {"lora_A": 2, "lora_B": 2, _MAGNITUDE: 1}}

Scale = Callable[[str, int], float]  # (original module name, rank) -> factor of B @ A


def read_lora(file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str], kind: str) -> StoredAdapter:
    """Matrices with the scale folded in, config and metadata of a file of ``kind`` lora or dora. Raises
    AdapterError."""
    metadata = AdapterMetadata.from_file_metadata(file_metadata)
    settings = read_settings(file, metadata, kind, alpha="lora_alpha")
    if settings and bool(settings.get("use_dora")) != (kind == "dora"):
        there, here = ("DoRA", "LoRA") if settings.get("use_dora") else ("LoRA", "DoRA")
        raise AdapterError(
            f"{CONFIG} describes a {there}, but {file} is a {here}", hint="Download or copy both files again."
        )
    if biases := [key for key in tensors if key.endswith(".bias")]:
        raise AdapterError(
            f"{file} was trained with bias {shorten(settings.get('bias'))!r} and changes {len(biases)} biases, "
            f"such as {shorten(biases[0], 200)}",
            hint="Only weights can be adapted. Train it again with bias none, or merge it into the model with PEFT.",
        )
    scale = scale_rule(settings, alpha="lora_alpha")
    weights: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module, part = split_key(key.removeprefix(PREFIX).replace(".default.", "."))
        if not key.startswith(PREFIX) or _num_dims(kind, module, part) != tensor.dim():
            label = ADAPTERS[kind].label
            raise AdapterError(
                f"{file} holds {shorten(key, 200)}, which is not part of a {label}", hint="Download or copy it again."
            )
        factor = scale(module, tensor.shape[1]) if part == "lora_B" else 1.0
        weights[module + (f".{part}" if part == _MAGNITUDE else f".{part}.weight")] = tensor.float() * factor
    for module, parts in modules_of(weights).items():
        check_parts(file, module, parts, required=tuple(_PARTS[kind]))
    config = parse_config(file, ADAPTERS[kind].config, metadata.config or _infer_config(settings, weights))
    return StoredAdapter(file, kind, config, weights, metadata.with_tag(settings))


def _num_dims(kind: str, module: str, part: str) -> int:
    """Dimensions of a part in PEFT's format; 0 if the kind has no such part. The factors of a convolution have 3."""
    return 3 if kind == "lora" and module in CONVOLUTIONS and part in _PARTS[kind] else _PARTS[kind].get(part, 0)


def write_lora(folder: Path, weights: Mapping[str, Tensor], metadata: AdapterMetadata, dtype: torch.dtype) -> None:
    """Write both files of folded ``weights``. Each alpha equals its rank, so that every program scales by 1."""
    ranks = {split_key(name)[0]: weights[name].shape[0] for name in sorted(weights) if ".lora_A." in name}
    extra = {"lora_dropout": 0.0, "bias": "none"} | ({"use_dora": True} if metadata.kind == "dora" else {})
    write_peft(folder, weights, ranks, extra, metadata, dtype, alpha="lora_alpha")


def write_peft(
    folder: Path,
    weights: Mapping[str, Tensor],
    ranks: Mapping[str, int],
    settings: Mapping[str, Any],
    metadata: AdapterMetadata,
    dtype: torch.dtype,
    *,
    alpha: str,
) -> None:
    """Write PEFT's two files for modules with these ``ranks``; ``alpha`` is PEFT's field name for the alpha."""
    rank = max(ranks.values())
    others = {name: each for name, each in ranks.items() if each != rank}
    tensors = {f"{PREFIX}{name}": to_file_dtype(value, dtype) for name, value in weights.items()}
    content = {
        "peft_type": PEFT_TYPES[metadata.kind],
        **settings,
        "task_type": None,
        "base_model_name_or_path": metadata.base_model,
        "r": rank,
        alpha: rank,
        "target_modules": shortest_names(list(ranks)),
        "rank_pattern": others,
        "alpha_pattern": others,
        "inference_mode": True,
        **metadata.tag(),
    }
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt", **metadata.to_file_metadata()})
    write_json(folder / CONFIG, content)


def read_settings(file: Path, metadata: AdapterMetadata, kind: str, *, alpha: str) -> dict[str, Any]:
    """PEFT's config beside the file; empty if it is missing and this program wrote the file, whose scale is 1.

    Raises:
        AdapterError: no config found, or it is for another kind.
    """
    beside = file.parent / CONFIG
    if not is_file(beside):
        if metadata.program.startswith("acestep "):
            return {}
        raise AdapterError(
            f"{file} has no {CONFIG} beside it, so its scale is unknown", hint="Put both files in one folder."
        )
    settings = read_json(beside, error=AdapterError)
    if not isinstance(settings, dict) or settings.get("peft_type") != PEFT_TYPES[kind]:
        raise AdapterError(
            f"{beside} does not describe a {ADAPTERS[kind].label}", hint="Download or copy both files again."
        )
    rank, patterns = settings.get("r"), settings.get("alpha_pattern") or {}
    invalid = "r" if type(rank) is not int or not 1 <= rank <= MAX_RANK else "alpha_pattern"
    if invalid == "r" or not isinstance(patterns, dict):
        raise AdapterError(
            f"{beside} has no valid {invalid}, so the scale is unknown: it is {shorten(settings.get(invalid))}",
            hint="Download or copy it again.",
        )
    found = {alpha: require_alpha(beside, alpha, settings.get(alpha))}
    return {**settings, **found, "alpha_pattern": plain_patterns(beside, "alpha_pattern", patterns)}


def scale_rule(settings: Mapping[str, Any], *, alpha: str) -> Scale:
    """alpha / rank, or alpha / sqrt(rank), with PEFT's ``alpha_pattern``; 1 without settings."""
    patterns: dict[str, float] = settings.get("alpha_pattern") or {}

    def scale(module: str, rank: int) -> float:
        found = patterns.get(match_name(patterns, module) or "", settings[alpha])
        return float(found / (math.sqrt(rank) if settings.get("use_rslora") else rank))

    return scale if settings else lambda module, rank: 1.0


def _infer_config(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the config from the PEFT settings of another trainer."""
    rank = settings["r"]
    ranks = {split_key(name)[0]: value.shape[0] for name, value in weights.items() if ".lora_A." in name}
    return {
        "r": rank,
        "alpha": max(1, round(settings["lora_alpha"])),
        "use_rslora": bool(settings.get("use_rslora")),
        "ranks": {name: each for name, each in ranks.items() if each != rank},
    }
