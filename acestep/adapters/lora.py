"""LoRA, by PEFT."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from acestep.adapters.base import StoredAdapter, copies, fill, require_finite, require_plain, seeded, split_key
from acestep.adapters.card import AdapterCard
from acestep.adapters.configs import LoRAConfig
from acestep.adapters.lora_file import read_lora, write_lora
from acestep.models.names import diffusers_to_original, original_to_diffusers

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
        decoder.train(decoder.training)

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
        return read_lora(file, tensors, metadata)

    @classmethod
    def write(
        cls, folder: Path, weights: Mapping[str, Tensor], config: LoRAConfig, card: AdapterCard, dtype: torch.dtype
    ) -> None:
        write_lora(folder, weights, card.stamped(cls.kind, config.model_dump()), dtype)

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
        self.write(folder, self.folded(), self.config, card, dtype)

    def remove(self) -> nn.Module:
        self._peft.unload()
        self._layers.clear()
        return self.network
