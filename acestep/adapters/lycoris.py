"""The base class of LoKr and LoHa: one LyCORIS module as a child of each target layer.

``LycorisNetwork`` keeps its targets in class attributes and by default adapts every linear and convolution layer,
whatever names it is given. So this module creates the LyCORIS modules itself, one per target; the decoder is the
network, and no state outside it changes.

All modules use bypass mode, x -> Wx + (dW)x, which is exact for a bf16 or quantized W. LyCORIS' other mode computes
W + dW first, which rounds dW to the dtype of W.
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
    """Base class for adapters with LyCORIS modules. Subclasses implement the formula of their kind."""

    kind: ClassVar[str]  # also the name of the adapter's submodule in each target layer
    smallest: ClassVar[Mapping[str, Any]]  # settings that give the smallest matrices

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
        module.drop = nn.Dropout(self.config.dropout)  # the constructor's argument only prints a warning
        module.to(device=layer.weight.device)
        module.apply_to()
        layer.add_module(self.kind, module)
        self._modules[name] = module

    def _module(self, name: str, layer: nn.Module) -> Any:
        """A new LyCORIS module of this kind for ``layer``, built from ``config``."""
        raise NotImplementedError

    def _notes(self) -> list[str]:
        return []

    def _scale(self, key: str) -> float:
        """The factor of ``key`` in the folded weights."""
        raise NotImplementedError

    @classmethod
    def from_stored(cls, decoder: nn.Module, stored: StoredAdapter) -> Self:
        found = stored.modules
        # The matrices of a new adapter are replaced. Those of the recorded config may be larger than the file's.
        config = stored.config.model_copy(update=cls.smallest)
        adapter = cls(decoder, [original_to_diffusers(name) for name in found], config, seed=0)
        adapter.config = stored.config
        for name, module in adapter._modules.items():
            cls._set_parts(module, found[name])
        adapter.notes = adapter._notes()
        return adapter

    @classmethod
    def _set_parts(cls, module: Any, parts: Mapping[str, Tensor]) -> None:
        """Replace the matrices by the frozen ones of a file, of any shape; they already include the scale."""
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
                del layer.forward  # LyCORIS leaves a bound copy of the class method on the instance
        self._modules.clear()
        return self.network


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence LyCORIS, which logs to stdout, where commands print their results."""
    logger = logging.getLogger("LyCORIS")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
