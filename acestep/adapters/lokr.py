"""LoKr, by LyCORIS' modules, placed by us.

LyCORIS' own network keeps its targets in class attributes and, by default, adapts every linear and convolution
layer whatever names it is given (INTEROP B6). Here one of its modules is made for each target and becomes a
child of that layer, so the decoder alone is the network and nothing outside it changes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lycoris.functional.lokr import kron_bypass
from lycoris.modules.lokr import LokrModule
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
from acestep.adapters.configs import LoKRConfig
from acestep.adapters.targets import module_from_underscores
from acestep.core.config import parse
from acestep.core.errors import AdapterError
from acestep.core.files import read_json, write_json
from acestep.models.names import diffusers_to_original, original_to_diffusers

WEIGHTS, CONFIG = "lokr_weights.safetensors", "lokr_config.json"
_PREFIX = "lycoris_"
_CHILD = "lokr"  # name of the adapter's module inside the layer it sits on
_PARTS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
_SAME = 0.01  # two scales that differ by less are one, rounded to bf16


class _Module(LokrModule):  # type: ignore[misc]
    """LyCORIS' module in bypass mode, x -> Wx + (dW)x, which is exact over a bf16 or quantised W.

    Its other mode adds dW to W first and so rounds it to the precision of W.
    """

    def bypass_forward_diff(self, h: Tensor, scale: float = 1.0) -> Tensor:
        if self.module_type != "linear":
            of_convolution: Tensor = super().bypass_forward_diff(h, scale)
            return of_convolution
        parts = [None if (part := getattr(self, name, None)) is None else part.to(h) for name in _PARTS[:6]]
        # "torch": the fused kernels need triton, and the compiled ones a C compiler, on the user's machine.
        added: Tensor = self.drop(kron_bypass(h, *parts, None, scale=self.scale * scale, backend="torch"))
        return added


class LoKRAdapter:
    """W + strength * scale * kron(w1, w2) on each module; each factor whole or as a product of two."""

    kind: ClassVar[str] = "lokr"

    def __init__(self, decoder: nn.Module, modules: list[str], config: LoKRConfig, *, seed: int) -> None:
        require_plain(decoder)
        decoder.requires_grad_(False)
        self.config = config
        self.network = decoder
        self._modules: dict[str, _Module] = {}
        with seeded(seed), _quiet():
            for name in modules:
                self._add(decoder.get_submodule(name), diffusers_to_original(name))
        self.notes = self._notes()

    def _add(self, layer: nn.Module, name: str) -> None:
        module = _Module(
            _PREFIX + name.replace(".", "_"),
            layer,
            lora_dim=self.config.linear_dim,
            alpha=self.config.linear_alpha,
            factor=self.config.factor,
            decompose_both=self.config.decompose_both,
            use_tucker=self.config.use_tucker,
            bypass_mode=True,
        )
        module.drop = nn.Dropout(self.config.dropout)  # told to the constructor it only prints a warning
        module.to(device=layer.weight.device)
        module.apply_to()
        layer.add_module(_CHILD, module)
        self._modules[name] = module

    def _notes(self) -> list[str]:
        notes = []
        if self.config.use_tucker:
            notes.append("use_tucker has no effect: none of the trained modules is a convolution")
        if self.config.linear_alpha != LoKRConfig().linear_alpha and all(map(_whole, self._modules.values())):
            notes.append("linear_alpha has no effect: at this linear_dim both factors are whole")
        return notes

    @classmethod
    def from_stored(cls, decoder: nn.Module, stored: StoredAdapter) -> Self:
        found = stored.modules
        assert isinstance(stored.config, LoKRConfig)
        names = {name: original_to_diffusers(name) for name in found}
        adapter = cls(decoder, list(names.values()), stored.config, seed=0)
        for name, module in adapter._modules.items():
            _set_factors(module, found[name])
        return adapter

    @classmethod
    def recognises(cls, keys: list[str]) -> bool:
        return any(".lokr_w1" in key for key in keys)

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> StoredAdapter:
        settings = _settings(file, metadata)
        weights: dict[str, Tensor] = {}
        alphas: dict[str, float] = {}
        for key, tensor in tensors.items():
            flat, part = split_key(key)
            module = module_from_underscores(flat.removeprefix(_PREFIX))
            if not key.startswith(_PREFIX) or part not in (*_PARTS, "alpha"):
                raise AdapterError(f"{file} holds {key}, which is not part of a LoKr", hint="Only plain LoKr is read.")
            if part == "alpha":
                alphas[module] = float(tensor)
            else:
                weights[f"{module}.{part}"] = tensor.float()
        card = AdapterCard.from_metadata(_facts(metadata)).with_tag(settings)
        recorded = card.config or {key: settings[key] for key in LoKRConfig.model_fields if key in settings}
        stored = StoredAdapter(file, cls.kind, parse(LoKRConfig, recorded), weights, card)
        for module, parts in stored.modules.items():
            scale = _scale(file, module, parts, alphas.get(module), settings)
            if scale != 1.0:
                weights[f"{module}.{_scaled_part(parts)}"] *= scale
        return stored

    @staticmethod
    def delta_shape(parts: dict[str, Tensor]) -> tuple[int, int]:
        w1, w2 = _factors(parts)
        return w1.shape[0] * w2.shape[0], w1.shape[1] * w2[0].numel()

    @staticmethod
    def delta_norm(parts: dict[str, Tensor]) -> float:
        w1, w2 = _factors({name: value.double() for name, value in parts.items()})
        return float(w1.norm() * w2.norm())

    def _weights(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{part}": parameter
            for name, module in self._modules.items()
            for part, parameter in module.named_parameters()
        }

    def _scale(self, name: str) -> float:
        module, part = split_key(name)
        found = self._modules.get(module)
        if found is None or _whole(found) or part != _scaled_part(dict(found.named_parameters())):
            return 1.0
        return float(found.scale)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._weights().values())

    def set_strength(self, strength: float) -> None:
        for module in self._modules.values():
            module.multiplier = require_finite(strength)

    def state(self) -> dict[str, Tensor]:
        return copies(self._weights())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        fill(self._weights(), state, "the saved LoKr")

    def folded(self) -> dict[str, Tensor]:
        return {name: value * self._scale(name) for name, value in self.state().items()}

    def load_folded(self, weights: Mapping[str, Tensor]) -> None:
        unfolded = {name: value / self._scale(name) for name, value in weights.items()}
        fill(self._weights(), unfolded, "the LoKr file")

    def save(self, folder: Path, card: AdapterCard, *, dtype: torch.dtype = torch.bfloat16) -> None:
        card = dataclasses.replace(card, kind=self.kind, config=self.config.model_dump())
        tensors = {}
        for name, value in self.folded().items():
            module, part = split_key(name)
            tensors[f"{_PREFIX}{module.replace('.', '_')}.{part}"] = value.to(dtype)
        for name, module in self._modules.items():
            dim = torch.tensor(float(module.lora_dim))  # alpha = dim: a scale of 1; fp32, bf16 cannot hold 10000
            tensors[f"{_PREFIX}{name.replace('.', '_')}.alpha"] = dim
        settings = self._lycoris_settings()
        metadata = {
            "algo": "lokr",
            "format": "lycoris",
            "adapter_type": "lokr",
            "lokr_config": json.dumps({**settings, **card.tag()}),
            "run_metadata": json.dumps(card.to_metadata()),
        }
        write_tensors(folder / WEIGHTS, tensors, metadata)
        write_json(folder / CONFIG, {"adapter_type": "lokr", "algo": "lokr", **settings, **card.tag()})

    def _lycoris_settings(self) -> dict[str, Any]:
        """What LyCORIS needs to build the same factors; alpha equals the dim, since the scale is in the weights."""
        return {
            "linear_dim": self.config.linear_dim,
            "linear_alpha": self.config.linear_dim,
            "factor": self.config.factor,
            "decompose_both": self.config.decompose_both,
            "use_tucker": self.config.use_tucker,
            "dropout": 0.0,
            "target_modules": sorted({name.rpartition(".")[2] for name in self._modules}),
        }

    def remove(self) -> nn.Module:
        for module in self._modules.values():
            layer = module.org_module[0]
            module.restore()
            del layer._modules[_CHILD]
            if getattr(layer.forward, "__func__", None) is type(layer).forward:
                del layer.forward  # LyCORIS leaves the class' own method on the instance
        self._modules.clear()
        return self.network


@contextmanager
def _quiet() -> Iterator[None]:
    """LyCORIS reports to stdout, where the command line writes its answer."""
    logger = logging.getLogger("LyCORIS")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _whole(module: _Module) -> bool:
    return bool(module.use_w1 and module.use_w2)


def _scaled_part(parts: Mapping[str, Any]) -> str:
    """The factor that the scale is folded into: one of those that start at zero."""
    return "lokr_w2_b" if "lokr_w2_b" in parts else "lokr_w1_b"


def _factors(parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """w1 [a, b] and w2 [c, d] or, of a convolution, [c, d, k] or [c, d * k]; the addition is their product."""
    w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        return w1, parts["lokr_w2"]
    if "lokr_t2" in parts:
        tucker = (parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
        return w1, torch.einsum("i j ..., i p, j r -> p r ...", *tucker)
    return w1, parts["lokr_w2_a"] @ parts["lokr_w2_b"]


def _set_factors(module: _Module, parts: Mapping[str, Tensor]) -> None:
    """Replace the factors by those of a file, frozen, whatever their sizes; their scale is folded in already."""
    for name in _PARTS:
        if name in module._parameters:
            delattr(module, name)
    device = module.org_module[0].weight.device
    for name, value in parts.items():
        module.register_parameter(name, nn.Parameter(value.to(device, copy=True), requires_grad=False))
    module.use_w1, module.use_w2, module.tucker = "lokr_w1" in parts, "lokr_w2" in parts, "lokr_t2" in parts
    module.scale = 1.0


def _settings(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What LyCORIS was told when the file was made: in the file, or else beside it. Raises AdapterError."""
    settings: Any = None
    if "lokr_config" in metadata:
        try:
            settings = json.loads(metadata["lokr_config"])
        except json.JSONDecodeError:
            settings = None
    elif (beside := file.parent / CONFIG).is_file():
        settings = read_json(beside, error=AdapterError)
    if not isinstance(settings, dict) or not {"linear_dim", "linear_alpha"} <= settings.keys():
        raise AdapterError(
            f"{file} does not tell its linear_dim and linear_alpha, so its scale is unknown",
            hint=f"Keep {CONFIG} beside it, or get the file again.",
        )
    return settings


def _facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """The card's part of the metadata, which is one JSON text; empty in files of other trainers."""
    try:
        facts = json.loads(metadata.get("run_metadata", "{}"))
    except json.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) and all(isinstance(value, str) for value in facts.values()) else {}


def _scale(
    file: Path, module: str, parts: Mapping[str, Tensor], alpha: float | None, settings: dict[str, Any]
) -> float:
    """alpha / dim as LyCORIS trained with it. Raises AdapterError when the settings are not those of the weights."""
    if "lokr_w1" in parts and "lokr_w2" in parts:
        return 1.0
    dim = parts[_scaled_part(parts)].shape[0] if "lokr_t2" not in parts else parts["lokr_t2"].shape[0]
    wanted = settings["linear_alpha"] / (math.sqrt(dim) if settings.get("rs_lora") else dim)
    stored = wanted if alpha is None else alpha / dim
    if settings["linear_dim"] != dim or abs(wanted - stored) > _SAME * abs(stored):
        raise AdapterError(
            f"{file}: {module} has dim {dim} and scale {stored:g}, its settings say "
            f"dim {settings['linear_dim']} and scale {wanted:g}",
            hint="The settings belong to another file; get it again.",
        )
    return float(wanted)
