"""LoRA files: PEFT's two files under original names, the scale folded into lora_B (INTEROP B5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from acestep.adapters.base import StoredAdapter, recorded_config, split_key, write_tensors
from acestep.adapters.card import AdapterCard
from acestep.adapters.configs import LoRAConfig
from acestep.adapters.targets import shortest_names
from acestep.core.errors import AdapterError
from acestep.core.files import read_json, write_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."

Scale = Callable[[str, int], float]  # (original module name, rank) -> what B @ A is multiplied by


def read_lora(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> StoredAdapter:
    """Matrices, settings and card of a file, the scale folded in. Raises AdapterError."""
    card = AdapterCard.from_metadata(metadata)
    settings = _settings(file, card)
    scale = _scale_rule(settings)
    weights: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module, part = split_key(key.removeprefix(_PREFIX).replace(".default.", "."))
        if not key.startswith(_PREFIX) or part not in ("lora_A", "lora_B") or tensor.dim() != 2:
            raise AdapterError(f"{file} holds {key}, which is not part of a LoRA", hint="Only plain LoRA is read.")
        factor = scale(module, tensor.shape[1]) if part == "lora_B" else 1.0
        weights[f"{module}.{part}.weight"] = tensor.float() * factor
    _require_pairs(file, weights)
    rank = settings["r"]
    recorded = card.config or {"r": rank, "alpha": max(1, round(scale("", rank) * rank))}
    config = recorded_config(file, LoRAConfig, recorded)
    return StoredAdapter(file, "lora", config, weights, card.with_tag(settings))


def write_lora(folder: Path, weights: Mapping[str, Tensor], card: AdapterCard, dtype: torch.dtype) -> None:
    """The two files, from folded ``weights``. Every alpha equals its rank, so that all programs scale by 1."""
    ranks = {split_key(name)[0]: weights[name].shape[0] for name in sorted(weights) if ".lora_A." in name}
    rank = max(ranks.values())
    others = {name: each for name, each in ranks.items() if each != rank}
    tensors = {f"{_PREFIX}{name}": value.to(dtype) for name, value in weights.items()}
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": card.base_model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": shortest_names(list(ranks)),
        "rank_pattern": others,
        "alpha_pattern": others,
        "inference_mode": True,
        **card.tag(),
    }
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt", **card.to_metadata()})
    write_json(folder / CONFIG, settings)


def _settings(file: Path, card: AdapterCard) -> dict[str, Any]:
    """PEFT's settings beside the file; without them, what a file of ours is known to mean. Raises AdapterError."""
    beside = file.parent / CONFIG
    if not beside.is_file():
        if card.kind == "lora":
            return {"r": card.config["r"], "lora_alpha": card.config["r"]}
        raise AdapterError(
            f"{file} has no {CONFIG} beside it, so its scale is unknown", hint="Keep both files in one folder."
        )
    settings = read_json(beside, error=AdapterError)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise AdapterError(f"{beside} does not describe a LoRA", hint="Only plain LoRA is read.")
    if settings.get("use_dora"):
        raise AdapterError(f"{beside} describes a DoRA", hint="Only plain LoRA is read.")
    wanted = {"r": int, "lora_alpha": int | float, "alpha_pattern": dict | None}
    if wrong := [name for name, kind in wanted.items() if not isinstance(settings.get(name), kind)]:
        raise AdapterError(f"{beside} has no usable {wrong[0]}, so the scale is unknown", hint="Get the file again.")
    return settings


def _scale_rule(settings: Mapping[str, Any]) -> Scale:
    """alpha / rank, or alpha / sqrt(rank), with PEFT's patterns for single modules."""
    patterns: dict[str, float] = settings.get("alpha_pattern") or {}

    def scale(module: str, rank: int) -> float:
        alpha = patterns.get(get_pattern_key(list(patterns), module), settings["lora_alpha"])
        return float(alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))

    return scale


def _require_pairs(file: Path, weights: Mapping[str, Tensor]) -> None:
    for module in {split_key(name)[0] for name in weights}:
        a, b = (weights.get(f"{module}.lora_{part}.weight") for part in "AB")
        if a is None or b is None or a.shape[0] != b.shape[1]:
            raise AdapterError(
                f"{file}: the matrices of {module} are incomplete or do not fit together", hint="Get the file again."
            )
