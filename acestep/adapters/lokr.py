"""LoKr, by LyCORIS' modules, placed by us.

LyCORIS' own network keeps its targets in class attributes and, by default, adapts every linear and convolution
layer whatever names it is given (INTEROP B6). Here one of its modules is made for each target and becomes a
child of that layer, so the decoder alone is the network and nothing outside it changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

import torch
from lycoris.functional.lokr import kron_bypass
from lycoris.modules.lokr import LokrModule
from torch import Tensor, nn

from acestep.adapters.base import StoredAdapter, copies, fill, require_finite, require_plain, seeded, split_key
from acestep.adapters.card import AdapterCard
from acestep.adapters.configs import LoKRConfig
from acestep.adapters.lokr_file import PARTS, PREFIX, factors, read_lokr, scaled_part, write_lokr
from acestep.models.names import diffusers_to_original, original_to_diffusers

_CHILD = "lokr"  # name of the adapter's module inside the layer it sits on


class _Module(LokrModule):  # type: ignore[misc]
    """LyCORIS' module in bypass mode, x -> Wx + (dW)x, which is exact over a bf16 or quantised W.

    Its other mode adds dW to W first and so rounds it to the precision of W.
    """

    def bypass_forward_diff(self, h: Tensor, scale: float = 1.0) -> Tensor:
        if self.module_type != "linear":
            of_convolution: Tensor = super().bypass_forward_diff(h, scale)
            return of_convolution
        parts = [None if (part := getattr(self, name, None)) is None else part.to(h) for name in PARTS[:6]]
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
        decoder.train(decoder.training)
        self.notes = self._notes()

    def _add(self, layer: nn.Module, name: str) -> None:
        module = _Module(
            PREFIX + name.replace(".", "_"),
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
        adapter = cls(decoder, [original_to_diffusers(name) for name in found], stored.config, seed=0)
        for name, module in adapter._modules.items():
            _set_factors(module, found[name])
        return adapter

    @classmethod
    def recognises(cls, keys: list[str]) -> bool:
        return any(".lokr_w1" in key for key in keys)

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> StoredAdapter:
        return read_lokr(file, tensors, metadata)

    @classmethod
    def write(
        cls, folder: Path, weights: Mapping[str, Tensor], config: LoKRConfig, card: AdapterCard, dtype: torch.dtype
    ) -> None:
        write_lokr(folder, weights, config, card.stamped(cls.kind, config.model_dump()), dtype)

    @staticmethod
    def delta_shape(parts: dict[str, Tensor]) -> tuple[int, int]:
        w1, w2 = factors(parts)
        return w1.shape[0] * w2.shape[0], w1.shape[1] * w2[0].numel()

    @staticmethod
    def delta_norm(parts: dict[str, Tensor]) -> float:
        w1, w2 = factors({name: value.double() for name, value in parts.items()})
        return float(w1.norm() * w2.norm())

    def _weights(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{part}": parameter
            for name, module in self._modules.items()
            for part, parameter in module.named_parameters()
        }

    def _scale(self, key: str) -> float:
        """What ``key`` is multiplied by when folded: the scale, for one factor of each module."""
        name, part = split_key(key)
        module = self._modules.get(name)
        if module is None or _whole(module) or part != scaled_part(dict(module.named_parameters())):
            return 1.0
        return float(module.scale)

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
        return {key: value * self._scale(key) for key, value in self.state().items()}

    def load_folded(self, weights: Mapping[str, Tensor]) -> None:
        fill(self._weights(), {key: value / self._scale(key) for key, value in weights.items()}, "the LoKr file")

    def save(self, folder: Path, card: AdapterCard, *, dtype: torch.dtype = torch.bfloat16) -> None:
        self.write(folder, self.folded(), self.config, card, dtype)

    def remove(self) -> nn.Module:
        for module in self._modules.values():
            layer = module.org_module[0]
            module.restore()
            delattr(layer, _CHILD)
            if getattr(layer.forward, "__func__", None) is type(layer).forward:
                del layer.forward  # LyCORIS leaves the class' own method on the instance
        self._modules.clear()
        return self.network


def _whole(module: _Module) -> bool:
    return bool(module.use_w1 and module.use_w2)


def _set_factors(module: _Module, parts: Mapping[str, Tensor]) -> None:
    """Replace the factors by those of a file, frozen, whatever their sizes; their scale is folded in already."""
    for name in PARTS:
        if hasattr(module, name):
            delattr(module, name)
    device = module.org_module[0].weight.device
    for name, value in parts.items():
        module.register_parameter(name, nn.Parameter(value.to(device, copy=True), requires_grad=False))
    module.use_w1, module.use_w2, module.tucker = "lokr_w1" in parts, "lokr_w2" in parts, "lokr_t2" in parts
    module.scale = 1.0


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
