"""LoHa with LyCORIS modules. Its files have PEFT's format, which more programs support."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from acestep.adapters.base import StoredAdapter
from acestep.adapters.configs import LoHaConfig
from acestep.adapters.loha_file import SCALED, read_loha, write_loha
from acestep.adapters.lycoris import LycorisAdapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.targets import module_from_underscores, ranks_of
from acestep.models.imports import without_bitsandbytes
from acestep.models.key_mapping import diffusers_to_original

with without_bitsandbytes():
    from lycoris.functional.loha import make_weight
    from lycoris.modules.loha import LohaModule


class _Module(LohaModule):  # type: ignore[misc]
    """LyCORIS' module in plain PyTorch, with the scale applied to the output: LyCORIS rounds it to bf16."""

    def bypass_forward_diff(self, x: Tensor, scale: float = 1.0) -> Tensor:
        parts = [getattr(self, f"hada_{name}").to(x) for name in ("w1_b", "w1_a", "w2_b", "w2_a")]
        weight = make_weight(*parts, torch.ones((), dtype=x.dtype, device=x.device)).view(self.shape)
        added: Tensor = self.drop(self.op(x, weight, **self.kw_dict)) * (self.scale * scale)
        return added


class LoHaAdapter(LycorisAdapter):
    """W + strength * (alpha / r) * (w1a @ w1b) * (w2a @ w2b) on each module; the two products are multiplied
    elementwise."""

    kind: ClassVar[str] = "loha"
    smallest: ClassVar[Mapping[str, Any]] = {"r": 1, "alpha": 1, "ranks": {}}
    config: LoHaConfig

    def __init__(self, decoder: nn.Module, modules: list[str], config: LoHaConfig, *, seed: int) -> None:
        names = [diffusers_to_original(name) for name in modules]
        self._ranks = ranks_of(names, config.r, config.ranks)
        super().__init__(decoder, modules, config, seed=seed)

    def _module(self, name: str, layer: nn.Module) -> _Module:
        """Modules with a rank of their own keep the scale of the others."""
        rank = self._ranks[module_from_underscores(name)]
        alpha = self.config.alpha * rank / self.config.r
        return _Module(name, layer, lora_dim=rank, alpha=alpha, bypass_mode=True)

    @classmethod
    def matches(cls, keys: list[str]) -> bool:
        return any(".hada_w1_a" in key for key in keys)

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str]) -> StoredAdapter:
        return read_loha(file, tensors, file_metadata)

    @classmethod
    def write(
        cls,
        folder: Path,
        weights: Mapping[str, Tensor],
        config: LoHaConfig,
        metadata: AdapterMetadata,
        dtype: torch.dtype,
    ) -> None:
        write_loha(folder, weights, metadata.with_config(cls.kind, config.model_dump()), dtype)

    @staticmethod
    def delta_shape(parts: dict[str, Tensor]) -> tuple[int, int]:
        return parts["hada_w1_a"].shape[0], parts["hada_w1_b"].shape[1]

    @staticmethod
    def delta_norm(parts: dict[str, Tensor]) -> float:
        return float(_product(parts).norm())

    @staticmethod
    def delta(parts: dict[str, Tensor], weight: Tensor, strength: float = 1.0) -> Tensor:
        return strength * _product(parts).view(weight.shape)

    def _scale(self, key: str) -> float:
        return self.config.alpha / self.config.r if key.endswith(f".{SCALED}") else 1.0


def _product(parts: Mapping[str, Tensor]) -> Tensor:
    return (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
