"""LoHa files. They are written in PEFT's format, which the ACE-Step app and ComfyUI load (docs/FORMATS.md).

LyCORIS' format, which other trainers write, can be read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.adapters.base import StoredAdapter, modules_of, parse_config, split_key
from acestep.adapters.configs import LoHaConfig
from acestep.adapters.lokr_file import PREFIX as LYCORIS_PREFIX
from acestep.adapters.lokr_file import json_object
from acestep.adapters.lora_file import PREFIX, Scale, read_settings, scale_rule, write_peft
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.part_shapes import check_parts
from acestep.adapters.targets import module_from_underscores
from acestep.adapters.weights_file import require_alpha
from acestep.core.errors import AdapterError
from acestep.core.untrusted import shorten

PARTS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_TUCKER = ("hada_t1", "hada_t2")
SCALED = "hada_w1_a"  # the part that the scale is folded into


def read_loha(file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str]) -> StoredAdapter:
    """Matrices with the scale folded in, config and metadata of a file. Raises AdapterError."""
    metadata = AdapterMetadata.from_file_metadata(file_metadata)
    weights: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in tensors.items():
        module, part = _module_and_part(key)
        if part in PARTS and tensor.dim() == 2:
            weights[f"{module}.{part}"] = tensor.float()
        elif part == "alpha":
            alphas[module] = require_alpha(file, key, tensor)
        elif part in _TUCKER:
            raise AdapterError(
                f"{file} is a LoHa with Tucker decomposition: {key} is the core tensor of a convolution",
                hint="Train it again with use_tucker off; LoHa is supported without Tucker decomposition.",
            )
        else:
            raise AdapterError(
                f"{file} holds {shorten(key, 200)}, which is not part of a LoHa", hint="Only plain LoHa is supported."
            )
    lycoris = next(iter(tensors)).startswith(LYCORIS_PREFIX)
    settings, scale = _settings(file, metadata, file_metadata, alphas, lycoris=lycoris)
    modules = modules_of(weights)
    if not modules:
        raise AdapterError(f"{file} holds no matrices of a LoHa", hint="Download or copy it again.")
    for module, parts in modules.items():
        check_parts(file, module, parts)
    ranks = {module: parts["hada_w1_b"].shape[0] for module, parts in modules.items()}
    for module, rank in ranks.items():
        weights[f"{module}.{SCALED}"] *= scale(module, rank)
    known = metadata.config or _infer_config(ranks, scale)
    return StoredAdapter(file, "loha", parse_config(file, LoHaConfig, known), weights, metadata.with_tag(settings))


def write_loha(folder: Path, weights: Mapping[str, Tensor], metadata: AdapterMetadata, dtype: torch.dtype) -> None:
    """Write both files of folded ``weights``. Each alpha equals its rank, so that every program scales by 1."""
    ranks = {split_key(name)[0]: weights[name].shape[1] for name in sorted(weights) if name.endswith(SCALED)}
    settings = {"rank_dropout": 0.0, "module_dropout": 0.0, "use_effective_conv2d": False}
    write_peft(folder, weights, ranks, settings, metadata, dtype, alpha="alpha")


def _module_and_part(key: str) -> tuple[str, str]:
    """Original module name and part of a key in either format; unknown keys keep their prefix and have no part."""
    flat, part = split_key(key)
    if flat.startswith(LYCORIS_PREFIX):
        return module_from_underscores(flat.removeprefix(LYCORIS_PREFIX)), part
    return flat.removeprefix(PREFIX), part if flat.startswith(PREFIX) else ""


def _settings(
    file: Path,
    metadata: AdapterMetadata,
    file_metadata: Mapping[str, str],
    alphas: Mapping[str, float],
    *,
    lycoris: bool,
) -> tuple[dict[str, Any], Scale]:
    """The settings beside the matrices, and the scale of each module; LyCORIS stores one alpha per module."""
    if lycoris:
        return json_object(file_metadata.get("loha_config", "{}")), lambda module, rank: alphas.get(module, rank) / rank
    settings = read_settings(file, metadata, "loha", alpha="alpha")
    return settings, scale_rule(settings, alpha="alpha")


def _infer_config(ranks: Mapping[str, int], scale: Scale) -> dict[str, Any]:
    """Infer the config from the shapes of another trainer's matrices."""
    module, rank = next(iter(ranks.items()))
    others = {name: each for name, each in ranks.items() if each != rank}
    return {"r": rank, "alpha": max(1, round(scale(module, rank) * rank)), "ranks": others}
