"""LoRA with PEFT. PiSSA, and DoRA in ``dora``, are implemented as variants of PEFT's layers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from acestep.adapters.base import (
    StoredAdapter,
    copy_weights,
    cpu_copies,
    fork_cpu_rng,
    require_finite,
    require_no_adapter,
)
from acestep.adapters.configs import LoRAConfig
from acestep.adapters.dropout import Dropout
from acestep.adapters.lora_file import read_lora, write_lora
from acestep.adapters.lora_layers import NAME, LowRank, project_jointly
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.pissa import folded_difference, principal_part, unfolded_difference
from acestep.adapters.targets import ranks_of
from acestep.core.errors import AdapterError
from acestep.models.imports import without_bitsandbytes
from acestep.models.key_mapping import diffusers_to_original, original_to_diffusers
from acestep.models.quantize import is_quantized


class LoRAAdapter:
    """W + strength * scale * B @ A on each module; A [r, in], B [out, r]; scale alpha / r or alpha / sqrt(r)."""

    kind: ClassVar[str] = "lora"
    config_type: ClassVar[type[LoRAConfig]] = LoRAConfig

    def __init__(self, decoder: nn.Module, modules: list[str], config: LoRAConfig, *, seed: int) -> None:
        require_no_adapter(decoder)
        ranks = ranks_of([diffusers_to_original(name) for name in modules], config.r, config.ranks)
        if config.init == "pissa":
            _require_pissa_start(decoder, modules, ranks)
        decoder.requires_grad_(False)
        with fork_cpu_rng(seed), without_bitsandbytes():
            self._peft = get_peft_model(decoder, _peft_settings(modules, config, ranks))
        self.config = config
        self.network = decoder
        self.notes: list[str] = []
        self._layers: dict[str, Any] = {diffusers_to_original(name): decoder.get_submodule(name) for name in modules}
        self._prepare_layers(torch.Generator().manual_seed(seed))
        decoder.train(decoder.training)

    def _prepare_layers(self, generator: torch.Generator) -> None:
        """Convert the matrices to fp32 for any base dtype, and initialize PiSSA."""
        for layer in self._layers.values():
            a, b = layer.lora_A[NAME].float(), layer.lora_B[NAME].float()
            if self.config.init == "pissa":
                start = principal_part(layer.weight.float(), layer.r[NAME], self._scale(layer), generator)
                for half, value in zip((a, b), start, strict=True):
                    half.weight.data = value.contiguous()
                    half.start = nn.Parameter(half.weight.data.clone(), requires_grad=False)
            if self.config.dropout:
                layer.lora_dropout[NAME] = Dropout(self.config.dropout)
            layer.cast_input_dtype_enabled = False  # ``_dropped`` casts it, if autocast does not
            layer.lora_variant[NAME] = self._variant(layer)
            layer.project_jointly = project_jointly

    def _variant(self, layer: Any) -> LowRank:
        return LowRank()

    @classmethod
    def from_stored(cls, decoder: nn.Module, stored: StoredAdapter) -> Self:
        ranks = {name: parts["lora_A"].shape[0] for name, parts in stored.modules.items()}
        rank = max(ranks.values())
        others = {name: each for name, each in ranks.items() if each != rank}
        config = cls.config_type(r=rank, alpha=rank, dropout=0.0, ranks=others)
        adapter = cls(decoder, [original_to_diffusers(name) for name in ranks], config, seed=0)
        adapter.load_folded(stored.weights)
        for parameter in adapter.parameters():
            parameter.requires_grad_(False)
        return adapter

    @classmethod
    def matches(cls, keys: list[str]) -> bool:
        return any(".lora_A." in key for key in keys) and not any("lora_magnitude_vector" in key for key in keys)

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str]) -> StoredAdapter:
        return read_lora(file, tensors, file_metadata, cls.kind)

    @classmethod
    def write(
        cls,
        folder: Path,
        weights: Mapping[str, Tensor],
        config: LoRAConfig,
        metadata: AdapterMetadata,
        dtype: torch.dtype,
    ) -> None:
        write_lora(folder, weights, metadata.with_config(cls.kind, config.model_dump()), dtype)

    @staticmethod
    def delta_shape(parts: dict[str, Tensor]) -> tuple[int, int]:
        return parts["lora_B"].shape[0], parts["lora_A"][0].numel()

    @staticmethod
    def delta_norm(parts: dict[str, Tensor]) -> float:
        a, b = parts["lora_A"].double().flatten(1), parts["lora_B"].double().flatten(1)
        return math.sqrt(max(0.0, float(((b.T @ b) * (a @ a.T)).sum())))  # |BA|^2 = tr(B'B AA'), without BA

    @staticmethod
    def delta(parts: dict[str, Tensor], weight: Tensor, strength: float = 1.0) -> Tensor:
        return strength * (parts["lora_B"].flatten(1) @ parts["lora_A"].flatten(1)).view(weight.shape)

    def _layer_parameters(self, layer: Any) -> dict[str, nn.Parameter]:
        """The parameters of one module, by their names in the training state."""
        halves = {"lora_A": layer.lora_A[NAME], "lora_B": layer.lora_B[NAME]}
        return {f"{half}.{name}": value for half, module in halves.items() for name, value in module.named_parameters()}

    def _weights(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{part}": value
            for name, layer in self._layers.items()
            for part, value in self._layer_parameters(layer).items()
        }

    def _scale(self, layer: Any) -> float:
        """The factor of B @ A at strength 1."""
        rank = layer.r[NAME]
        return float(layer.lora_alpha[NAME] / (math.sqrt(rank) if self.config.use_rslora else rank))

    def parameters(self) -> list[nn.Parameter]:
        return [value for name, value in self._weights().items() if not name.endswith(".start")]

    def set_strength(self, strength: float) -> None:
        for layer in self._layers.values():
            layer.set_scale(NAME, require_finite(strength))

    def state(self) -> dict[str, Tensor]:
        return cpu_copies(self._weights())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        copy_weights(self._weights(), state, "the saved adapter")

    def folded(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            own, scale = cpu_copies(self._layer_parameters(layer)), self._scale(layer)
            a, b = own.pop("lora_A.weight"), own.pop("lora_B.weight")
            if self.config.init == "pissa":
                a, b = folded_difference(a, b, own.pop("lora_A.start"), own.pop("lora_B.start"), scale)
            else:
                b = b * scale
            parts = {"lora_A.weight": a, "lora_B.weight": b, **own}
            found |= {f"{name}.{part}": value for part, value in parts.items()}
        return found

    def load_folded(self, weights: Mapping[str, Tensor]) -> None:
        unfolded = dict(weights)
        for name, layer in self._layers.items():
            keys = [f"{name}.lora_{half}.weight" for half in "AB"]
            if not all(key in weights for key in keys):
                continue  # reported below, with all missing keys
            (a, b), scale = (weights[key] for key in keys), self._scale(layer)
            if self.config.init == "pissa":
                starts = [f"{name}.lora_{half}.start" for half in "AB"]
                unfolded |= zip([*keys, *starts], unfolded_difference(a, b, layer.r[NAME], scale), strict=True)
            else:
                unfolded[keys[1]] = b / scale
        copy_weights(self._weights(), unfolded, "the adapter file")

    def save(self, folder: Path, metadata: AdapterMetadata, *, dtype: torch.dtype = torch.bfloat16) -> None:
        self.write(folder, self.folded(), self.config, metadata, dtype)

    def remove(self) -> nn.Module:
        self._peft.unload()
        self._layers.clear()
        return self.network


def _peft_settings(modules: list[str], config: LoRAConfig, ranks: Mapping[str, int]) -> LoraConfig:
    """Modules with a rank of their own keep the scale of the others, or with rsLoRA their alpha."""
    others = {re.escape(original_to_diffusers(name)): rank for name, rank in ranks.items() if rank != config.r}
    alphas = {
        name: config.alpha if config.use_rslora else config.alpha * rank / config.r for name, rank in others.items()
    }
    return LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.use_rslora,
        target_modules=list(modules),
        rank_pattern=others,
        alpha_pattern=alphas,
        bias="none",
    )


def _require_pissa_start(decoder: nn.Module, modules: list[str], ranks: Mapping[str, int]) -> None:
    """Raise AdapterError if PiSSA cannot be initialized from the weights, before anything is injected."""
    if is_quantized(decoder):
        raise AdapterError(
            "PiSSA needs exact weights for its initialization, but the base model is quantized",
            hint="Set init to default, or set the base precision to auto.",
        )
    for name, rank in zip(modules, ranks.values(), strict=True):
        weight: Any = decoder.get_submodule(name).weight
        if rank > min(weight.shape):
            raise AdapterError(
                f"PiSSA cannot initialize {name} with rank {rank}: its weight is {list(weight.shape)}",
                hint=f"Choose a rank of at most {min(weight.shape)}.",
            )
