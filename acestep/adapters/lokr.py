"""LoKr with LyCORIS modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from acestep.adapters.base import StoredAdapter, split_key
from acestep.adapters.configs import LoKRConfig
from acestep.adapters.lokr_file import MAGNITUDE, factors, product, read_lokr, scaled_part, write_lokr
from acestep.adapters.lokr_modules import DecomposedKronecker, Kronecker, decomposed_delta
from acestep.adapters.lycoris import LycorisAdapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.part_shapes import update_shape


class LoKRAdapter(LycorisAdapter):
    """W + strength * scale * kron(w1, w2) on each module; each factor is a full matrix or a low-rank product.

    With ``weight_decompose``, the rows of the sum are scaled to learned magnitudes (``lokr_modules``).
    """

    kind: ClassVar[str] = "lokr"
    smallest: ClassVar[Mapping[str, Any]] = {"linear_dim": 1, "factor": -1, "decompose_both": True}
    config: LoKRConfig

    def _module(self, name: str, layer: nn.Module) -> Kronecker:
        module_type = DecomposedKronecker if self.config.weight_decompose else Kronecker
        return module_type(
            name,
            layer,
            lora_dim=self.config.linear_dim,
            alpha=self.config.linear_alpha,
            factor=self.config.factor,
            decompose_both=self.config.decompose_both,
            use_tucker=self.config.use_tucker,
            unbalanced_factorization=self.config.unbalanced_factorization,
            bypass_mode=True,
        )

    def _notes(self) -> list[str]:
        notes = []
        if self.config.use_tucker:
            notes.append("use_tucker has no effect: none of the trained modules is a convolution")
        if self.config.linear_alpha != LoKRConfig().linear_alpha and all(map(_full_matrices, self._modules.values())):
            notes.append("linear_alpha has no effect: at this linear_dim both factors are full matrices")
        return notes

    @classmethod
    def matches(cls, keys: list[str]) -> bool:
        return any(".lokr_w1" in key for key in keys)

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str]) -> StoredAdapter:
        return read_lokr(file, tensors, file_metadata)

    @classmethod
    def write(
        cls,
        folder: Path,
        weights: Mapping[str, Tensor],
        config: LoKRConfig,
        metadata: AdapterMetadata,
        dtype: torch.dtype,
    ) -> None:
        write_lokr(folder, weights, config, metadata.with_config(cls.kind, config.model_dump()), dtype)

    @staticmethod
    def delta_shape(parts: dict[str, Tensor]) -> tuple[int, int]:
        return update_shape(parts)

    @staticmethod
    def delta_norm(parts: dict[str, Tensor]) -> float:
        w1, w2 = factors({name: value.double() for name, value in parts.items()})
        return float(w1.norm() * w2.norm())

    @staticmethod
    def delta(parts: dict[str, Tensor], weight: Tensor, strength: float = 1.0) -> Tensor:
        added = product(parts, weight.shape)
        return decomposed_delta(weight, added, parts[MAGNITUDE], strength) if MAGNITUDE in parts else strength * added

    def _scale(self, key: str) -> float:
        """The scale of the module for the part it is folded into, 1 for all others."""
        name, part = split_key(key)
        module = self._modules.get(name)
        if module is None or _full_matrices(module) or part != scaled_part(dict(module.named_parameters())):
            return 1.0
        return float(module.scale)

    @classmethod
    def _set_parts(cls, module: Any, parts: Mapping[str, Tensor]) -> None:
        super()._set_parts(module, parts)
        module.use_w1, module.use_w2, module.tucker = "lokr_w1" in parts, "lokr_w2" in parts, "lokr_t2" in parts


def _full_matrices(module: Any) -> bool:
    return bool(module.use_w1 and module.use_w2)
