"""LoRA, by PEFT."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from acestep.adapters.base import (
    StoredAdapter,
    copies,
    fill,
    require_finite,
    require_plain,
    seeded,
    split_key,
    write_tensors,
)
from acestep.adapters.card import AdapterCard
from acestep.adapters.configs import LoRAConfig
from acestep.adapters.targets import shortest_names
from acestep.core.config import parse
from acestep.core.errors import AdapterError
from acestep.core.files import read_json, write_json
from acestep.models.names import diffusers_to_original, original_to_diffusers

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_NAME = "default"  # PEFT's name of the one adapter


class LoRAAdapter:
    """W + strength * (alpha / r) * B @ A on each module; A [r, in], B [out, r]."""

    kind: ClassVar[str] = "lora"

    def __init__(
        self,
        decoder: nn.Module,
        modules: list[str],
        config: LoRAConfig,
        *,
        seed: int,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        """``ranks`` differ from ``config.r`` on some modules (diffusers names); their alpha equals their rank."""
        require_plain(decoder)
        decoder.requires_grad_(False)
        patterns = {re.escape(name): rank for name, rank in (ranks or {}).items() if rank != config.r}
        settings = LoraConfig(
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(modules),
            rank_pattern=dict(patterns),
            alpha_pattern=dict(patterns),
            bias="none",
        )
        with seeded(seed):
            self._peft = get_peft_model(decoder, settings)
        self.config = config
        self.network = decoder
        self.notes: list[str] = []
        self._layers: dict[str, Any] = {diffusers_to_original(name): decoder.get_submodule(name) for name in modules}
        for parameter in self.parameters():
            parameter.data = parameter.data.float()

    @classmethod
    def from_stored(cls, decoder: nn.Module, stored: StoredAdapter) -> Self:
        ranks = {original_to_diffusers(name): parts["lora_A"].shape[0] for name, parts in stored.modules.items()}
        rank = max(ranks.values())
        config = LoRAConfig(r=rank, alpha=rank, dropout=0.0)
        adapter = cls(decoder, list(ranks), config, seed=0, ranks=ranks)
        adapter.load_folded(stored.weights)
        for parameter in adapter.parameters():
            parameter.requires_grad_(False)
        return adapter

    @classmethod
    def recognises(cls, keys: list[str]) -> bool:
        return any(".lora_A." in key for key in keys)

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> StoredAdapter:
        beside = file.parent / CONFIG
        settings = read_json(beside, error=AdapterError) if beside.is_file() else None
        card = AdapterCard.from_metadata(metadata)
        if settings is None and card.kind != cls.kind:
            raise AdapterError(
                f"{file} has no {CONFIG} beside it, so its scale is unknown", hint="Keep both files in one folder."
            )
        scale_of = _scales(beside, settings) if settings is not None else lambda module, rank: 1.0
        weights: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            module, part = split_key(key.removeprefix(_PREFIX).replace(f".{_NAME}.", "."))
            if not key.startswith(_PREFIX) or part not in ("lora_A", "lora_B") or tensor.dim() != 2:
                raise AdapterError(f"{file} holds {key}, which is not part of a LoRA", hint="Only plain LoRA is read.")
            weights[f"{module}.{part}.weight"] = tensor.float()
        for name in [name for name in weights if name.endswith(".lora_B.weight")]:
            weights[name] = weights[name] * scale_of(split_key(name)[0], weights[name].shape[1])
        _require_pairs(file, weights)
        rank = settings["r"] if settings is not None else 1
        recorded = card.config or {"r": rank, "alpha": max(1, round(scale_of("", rank) * rank))}
        return StoredAdapter(file, cls.kind, parse(LoRAConfig, recorded), weights, card.with_tag(settings or {}))

    @staticmethod
    def delta_shape(parts: dict[str, Tensor]) -> tuple[int, int]:
        return parts["lora_B"].shape[0], parts["lora_A"].shape[1]

    @staticmethod
    def delta_norm(parts: dict[str, Tensor]) -> float:
        a, b = parts["lora_A"].double(), parts["lora_B"].double()
        return math.sqrt(max(0.0, float(((b.T @ b) * (a @ a.T)).sum())))  # |BA|^2 = tr(B'B AA'), without BA

    def _weights(self) -> dict[str, nn.Parameter]:
        found = {}
        for name, layer in self._layers.items():
            found[f"{name}.lora_A.weight"] = layer.lora_A[_NAME].weight
            found[f"{name}.lora_B.weight"] = layer.lora_B[_NAME].weight
        return found

    def _scale(self, name: str) -> float:
        layer = self._layers[split_key(name)[0]]
        return float(layer.lora_alpha[_NAME] / layer.r[_NAME]) if ".lora_B." in name else 1.0

    def parameters(self) -> list[nn.Parameter]:
        return list(self._weights().values())

    def set_strength(self, strength: float) -> None:
        for layer in self._layers.values():
            layer.set_scale(_NAME, require_finite(strength))

    def state(self) -> dict[str, Tensor]:
        return copies(self._weights())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        fill(self._weights(), state, "the saved LoRA")

    def folded(self) -> dict[str, Tensor]:
        return {name: value * self._scale(name) for name, value in self.state().items()}

    def load_folded(self, weights: Mapping[str, Tensor]) -> None:
        known = self._weights()
        unfolded = {name: value / self._scale(name) if name in known else value for name, value in weights.items()}
        fill(known, unfolded, "the LoRA file")

    def save(self, folder: Path, card: AdapterCard, *, dtype: torch.dtype = torch.bfloat16) -> None:
        card = dataclasses.replace(card, kind=self.kind, config=self.config.model_dump())
        tensors = {f"{_PREFIX}{name}": value.to(dtype) for name, value in self.folded().items()}
        write_tensors(folder / WEIGHTS, tensors, {"format": "pt", **card.to_metadata()})
        write_json(folder / CONFIG, self._peft_settings(card))

    def _peft_settings(self, card: AdapterCard) -> dict[str, Any]:
        """The least that PEFT needs; alpha equals the rank everywhere, since the scale is in the weights."""
        depth: Any = self.network.layers
        ranks = {name: layer.r[_NAME] for name, layer in self._layers.items()}
        others = {name: rank for name, rank in ranks.items() if rank != self.config.r}
        return {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": card.base_model,
            "r": self.config.r,
            "lora_alpha": self.config.r,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": shortest_names(list(ranks), len(depth)),
            "rank_pattern": others,
            "alpha_pattern": others,
            "inference_mode": True,
            **card.tag(),
        }

    def remove(self) -> nn.Module:
        self._peft.unload()
        self._layers.clear()
        return self.network


def _scales(file: Path, settings: Any) -> Any:
    """(original module name, rank) -> alpha / rank, or alpha / sqrt(rank), as PEFT would have it.

    Raises:
        AdapterError: ``settings`` are not those of a plain LoRA.
    """
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise AdapterError(f"{file} does not describe a LoRA", hint="Only LoRA and LoKr adapters can be read.")
    if settings.get("use_dora"):
        raise AdapterError(f"{file} describes a DoRA, which is not supported", hint="Use a plain LoRA.")
    alpha, patterns = settings.get("lora_alpha"), settings.get("alpha_pattern") or {}
    if not isinstance(alpha, int | float) or not isinstance(settings.get("r"), int):
        raise AdapterError(f"{file} lacks r or lora_alpha, so the scale is unknown", hint="Get the file again.")

    def scale(module: str, rank: int) -> float:
        value = patterns.get(get_pattern_key(list(patterns), module), alpha)
        return float(value / (math.sqrt(rank) if settings.get("use_rslora") else rank))

    return scale


def _require_pairs(file: Path, weights: Mapping[str, Tensor]) -> None:
    for name in weights:
        other = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
        if other not in weights:
            raise AdapterError(f"{file} holds {name} without {other}", hint="The file is damaged; get it again.")
        if weights[other].shape[".lora_B." in other] != weights[name].shape[".lora_B." in name]:
            raise AdapterError(f"{file}: {name} and {other} have different ranks", hint="Get the file again.")
