"""DoRA: the magnitude of each weight row is trained separately from its direction.

PEFT's DoRA layer computes row norms in the dtype of the base model, so that on bf16 weights a new adapter already
changes the output. Here row norms are fp32. The strength is that of PEFT's ``set_scale``: it scales BA and keeps the
magnitudes. The only exception is strength 0, which is the base model here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from acestep.adapters.base import require_finite
from acestep.adapters.configs import DoRAConfig
from acestep.adapters.lora import LoRAAdapter
from acestep.adapters.lora_layers import NAME, LowRank, product
from acestep.models.quantize import QuantizedLinear, dequantized_weight

MAGNITUDE = "lora_magnitude_vector"


class DoRAAdapter(LoRAAdapter):
    """m * (W + strength * scale * BA) / |W + strength * scale * BA| on each module; m [out] has one value per row.

    At strength 0, W.
    """

    kind: ClassVar[str] = "dora"
    config_type: ClassVar[type[DoRAConfig]] = DoRAConfig

    def _prepare_layers(self, generator: torch.Generator) -> None:
        super()._prepare_layers(generator)
        for layer in self._layers.values():
            norms = layer.lora_variant[NAME].row_norms(layer)
            layer.lora_magnitude_vector[NAME] = _Magnitude(norms)

    def _variant(self, layer: Any) -> LowRank:
        return _Decomposed(layer, self._scale(layer))

    @classmethod
    def matches(cls, keys: list[str]) -> bool:
        return any(MAGNITUDE in key for key in keys)

    @staticmethod
    def delta(parts: dict[str, Tensor], weight: Tensor, strength: float = 1.0) -> Tensor:
        if strength == 0.0:
            return torch.zeros_like(weight)
        direction = weight + strength * (parts["lora_B"] @ parts["lora_A"])
        return direction * (parts[MAGNITUDE] / _row_norms(direction))[:, None] - weight

    def _layer_parameters(self, layer: Any) -> dict[str, nn.Parameter]:
        return {**super()._layer_parameters(layer), MAGNITUDE: layer.lora_magnitude_vector[NAME].weight}

    def set_strength(self, strength: float) -> None:
        for layer in self._layers.values():
            layer.lora_variant[NAME].strength = require_finite(strength)


class _Magnitude(nn.Module):
    """Holds the magnitudes at the attribute that PEFT uses."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class _Decomposed(LowRank):
    """The forward pass of DoRA as a variant of a PEFT layer."""

    def __init__(self, layer: Any, scale: float) -> None:
        self.strength, self._scale = 1.0, scale
        base = layer.get_base_layer()
        # The norms of quantized rows differ slightly from those of the original weight, which the file is for.
        self._correction = (
            base.row_norms / _row_norms(dequantized_weight(base)) if isinstance(base, QuantizedLinear) else None
        )

    @torch.no_grad()
    def row_norms(self, layer: Any) -> Tensor:
        """Row norms [out] of W + strength * scale * BA in fp32, without gradient (section 4.3 of the paper)."""
        a, b, scale = layer.lora_A[NAME], layer.lora_B[NAME], self._scale * self.strength
        device = a.weight.device.type
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):  # autocast does not know meta
            direction = torch.addmm(dequantized_weight(layer.get_base_layer()), b.weight, a.weight, alpha=scale)
            if hasattr(a, "start"):
                direction.addmm_(b.start, a.start, alpha=-scale)
        norms = _row_norms(direction)
        return norms if self._correction is None else norms * self._correction

    def add(self, layer: Any, result: Tensor, dropped: Tensor, reduced: Tensor) -> Tensor:
        if self.strength == 0.0:
            return result
        base, output = layer.get_base_layer(), result
        if layer.training and not isinstance(layer.lora_dropout[NAME], nn.Identity):
            output = base(dropped.to(result.dtype))
        if base.bias is not None:
            output = output - base.bias
        ratio = layer.lora_magnitude_vector[NAME].weight / self.row_norms(layer)
        update: Tensor = ratio * (output + product(layer, dropped, reduced, self._scale * self.strength)) - output
        return (result + update).to(result.dtype)


def _row_norms(weight: Tensor) -> Tensor:
    """Norms [out] of the rows of ``weight``; positive, so that a zero row stays zero."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return norms.clamp_min(torch.finfo(torch.float32).tiny)
