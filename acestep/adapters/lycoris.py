"""What LoKr and LoHa share: one of LyCORIS' modules inside each layer, placed by us.

LyCORIS' own network keeps its targets in class attributes and, by default, adapts every linear and convolution
layer whatever names it is given. Here one of its modules is made for each target and becomes a
child of that layer, so the decoder alone is the network and nothing outside it changes.

All modules are in bypass mode, x -> Wx + (dW)x, which is exact over a bf16 or quantized W; LyCORIS' other mode adds
dW to W first and so rounds it to the precision of W.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from acestep.adapters.base import (
    StoredAdapter,
    copy_weights,
    cpu_copies,
    fork_cpu_rng,
    require_finite,
    require_no_adapter,
)
from acestep.adapters.metadata import AdapterMetadata
from acestep.models.key_mapping import diffusers_to_original, original_to_diffusers


class LycorisAdapter:
    """Base of the adapters whose layers are LyCORIS modules. What differs follows each kind's own formula."""

    kind: ClassVar[str]  # also the name of the adapter's module inside the layer it sits on

    def __init__(self, decoder: nn.Module, modules: list[str], config: Any, *, seed: int) -> None:
        require_no_adapter(decoder)
        decoder.requires_grad_(False)
        self.config = config
        self.network = decoder
        self._modules: dict[str, Any] = {}
        with fork_cpu_rng(seed), _quiet():
            for name in modules:
                self._add(decoder.get_submodule(name), diffusers_to_original(name))
        decoder.train(decoder.training)
        self.notes = self._notes()

    def _add(self, layer: Any, name: str) -> None:
        module = self._module(name.replace(".", "_"), layer)
        module.drop = nn.Dropout(self.config.dropout)  # as a constructor argument it only prints a warning
        module.to(device=layer.weight.device)
        module.apply_to()
        layer.add_module(self.kind, module)
        self._modules[name] = module

    def _module(self, name: str, layer: nn.Module) -> Any:
        """A fresh module of this kind for ``layer``, by ``config``."""
        raise NotImplementedError

    def _notes(self) -> list[str]:
        return []

    def _scale(self, key: str) -> float:
        """What ``key`` is multiplied by when folded."""
        raise NotImplementedError

    @classmethod
    def from_stored(cls, decoder: nn.Module, stored: StoredAdapter) -> Self:
        found = stored.modules
        adapter = cls(decoder, [original_to_diffusers(name) for name in found], stored.config, seed=0)
        for name, module in adapter._modules.items():
            cls._set_parts(module, found[name])
        return adapter

    @classmethod
    def _set_parts(cls, module: Any, parts: Mapping[str, Tensor]) -> None:
        """Replace the matrices by those of a file, frozen, whatever their sizes; their scale is folded in already."""
        for name, _ in list(module.named_parameters()):
            delattr(module, name)
        device = module.org_module[0].weight.device
        for name, value in parts.items():
            module.register_parameter(name, nn.Parameter(value.to(device, copy=True), requires_grad=False))
        module.scale = 1.0

    @classmethod
    def write(
        cls,
        folder: Path,
        weights: Mapping[str, Tensor],
        config: Any,
        metadata: AdapterMetadata,
        dtype: torch.dtype,
    ) -> None:
        raise NotImplementedError

    def _weights(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{part}": parameter
            for name, module in self._modules.items()
            for part, parameter in module.named_parameters()
        }

    def parameters(self) -> list[nn.Parameter]:
        return list(self._weights().values())

    def set_strength(self, strength: float) -> None:
        for module in self._modules.values():
            module.multiplier = require_finite(strength)

    def state(self) -> dict[str, Tensor]:
        return cpu_copies(self._weights())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        copy_weights(self._weights(), state, "the saved adapter")

    def folded(self) -> dict[str, Tensor]:
        return {key: value * self._scale(key) for key, value in self.state().items()}

    def load_folded(self, weights: Mapping[str, Tensor]) -> None:
        unfolded = {key: value / self._scale(key) for key, value in weights.items()}
        copy_weights(self._weights(), unfolded, "the adapter file")

    def save(self, folder: Path, metadata: AdapterMetadata, *, dtype: torch.dtype = torch.bfloat16) -> None:
        self.write(folder, self.folded(), self.config, metadata, dtype)

    def remove(self) -> nn.Module:
        for module in self._modules.values():
            layer = module.org_module[0]
            module.restore()
            delattr(layer, self.kind)
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
